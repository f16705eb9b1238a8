//! `maclane docker`: where Docker finds the plugin, and what it has here.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::{Value, json};

use super::{
    args::{DockerCommand, Spec},
    output::{Output, understand},
};
use crate::{
    api::client::{Client, exchange},
    error::{Context, Error, ErrorKind, Result},
    model::DockerNetworkView,
};

/// The specification of the plugin; its name is that of the driver.
const SPEC: &str = "maclane.spec";

/// Does what a command says.
pub(super) async fn run(
    client: &Client,
    output: Output,
    command: DockerCommand,
) -> anyhow::Result<ExitCode> {
    match command {
        DockerCommand::Install(spec) => install(output, &spec)?,
        DockerCommand::Uninstall(spec) => uninstall(output, &spec)?,
        DockerCommand::Status(spec) => return status(client, output, &spec).await,
    }
    Ok(ExitCode::SUCCESS)
}

impl Spec {
    fn path(&self) -> PathBuf {
        self.plugins_dir.join(SPEC)
    }

    fn text(&self) -> String {
        format!("unix://{}\n", self.docker_socket.display())
    }

    /// What is there; nothing if there is no file.
    fn there(&self) -> Result<Option<String>> {
        match fs::read_to_string(self.path()) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).doing(|| format!("cannot read {}", self.path().display())),
        }
    }

    /// Refuses a file that says something else than ours would.
    fn check_ours(&self, there: &str) -> Result<()> {
        if there.trim() == self.text().trim() {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "{} is there and names another socket ({}); name that one with --docker-socket, or move the file away",
            self.path().display(),
            there.trim()
        )))
    }
}

fn install(output: Output, spec: &Spec) -> Result<()> {
    let (path, dir) = (spec.path(), &spec.plugins_dir);
    if let Some(there) = spec.there()? {
        spec.check_ours(&there)?;
        output.note(&format!("{} is there already", path.display()));
        return Ok(());
    }
    let doing = || format!("cannot write {}", path.display());
    fs::create_dir_all(dir).doing(doing)?;
    let begun = dir.join(format!(".{SPEC}.new"));
    fs::write(&begun, spec.text()).doing(doing)?;
    fs::rename(&begun, &path).doing(doing)?;
    output.note(&format!(
        "written: {}\nnow run the daemon as Docker's plugin (`maclane daemon --docker`, or `docker = true` in its \
         configuration file), and `docker network create -d maclane …`",
        path.display()
    ));
    Ok(())
}

fn uninstall(output: Output, spec: &Spec) -> Result<()> {
    let path = spec.path();
    let Some(there) = spec.there()? else {
        output.note(&format!("{} is not there", path.display()));
        return Ok(());
    };
    spec.check_ours(&there)?;
    fs::remove_file(&path).doing(|| format!("cannot remove {}", path.display()))?;
    output.note(&format!(
        "removed: {}; Docker's networks stay, and work while the daemon is its plugin",
        path.display()
    ));
    Ok(())
}

async fn status(client: &Client, output: Output, spec: &Spec) -> anyhow::Result<ExitCode> {
    let written = spec.there()?.map(|there| there.trim().to_owned());
    let plugin = activate(&spec.docker_socket).await;
    let networks = match client.get("/v1/docker").await {
        Ok(networks) => networks,
        Err(e) if e.kind == ErrorKind::NoDaemon => Value::Null,
        Err(e) => return Err(e.into()),
    };
    let code = if plugin.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if output.is_json() {
        let plugin = plugin.as_ref().map_or(Value::Null, |implements| json!(implements));
        output.json(&json!({
            "spec": written, "socket": spec.docker_socket, "implements": plugin, "networks": networks,
        }))?;
        return Ok(code);
    }
    let socket = spec.docker_socket.display();
    let spec_text = written.map_or_else(
        || format!("none in {}; `maclane docker install` writes it", spec.plugins_dir.display()),
        |text| format!("{text} ({})", spec.path().display()),
    );
    let plugin_text = match &plugin {
        Ok(implements) => format!("answers on {socket}: {}", implements.join(", ")),
        Err(e) => format!(
            "does not answer on {socket}: {e}; run `maclane daemon --docker`, or set `docker = true` in its configuration file"
        ),
    };
    output.text(&format!("spec    {spec_text}\nplugin  {plugin_text}\n\n"))?;
    if networks.is_null() {
        output.note("the daemon does not answer: nothing is known of networks");
    } else {
        output.rows::<DockerNetworkView>(networks)?;
    }
    Ok(code)
}

/// What the plugin says that it is, asked as Docker asks.
async fn activate(socket: &Path) -> Result<Vec<String>> {
    let stream = tokio::net::UnixStream::connect(socket).await?;
    let request = hyper::Request::builder()
        .method(hyper::Method::POST)
        .uri("/Plugin.Activate")
        .header(hyper::header::HOST, "")
        .body(http_body_util::Full::default())
        .map_err(|e| Error::failed(e.to_string()))?;
    let (_, answer) = exchange(stream, request).await.map_err(|e| Error::failed(e.to_string()))?;
    let answer: Value = serde_json::from_slice(&answer)
        .map_err(|_| Error::failed("what answers is no plugin of Docker"))?;
    understand(answer["Implements"].clone()).map_err(|e| Error::failed(e.to_string()))
}
