//! The command line: a client of the daemon's API.

pub(crate) mod args;
mod docker;
mod doctor;
mod events;
mod manual;
pub(crate) mod output;
mod rates;
mod stats;
mod table;
mod top;
mod trace;
mod values;

use std::{
    fs,
    io::{self, Read},
    net::IpAddr,
    path::Path,
    process::ExitCode,
};

use serde_json::{Value, json};

use self::{
    args::{BindingCommand, ChildCommand, Command, FdbCommand, NetworkCommand, ParentCommand},
    output::{Output, understand},
};
use crate::{
    api::client::{Client, quote},
    backup::Backup,
    error::{Context, Error, ErrorKind},
    model::{
        BindingSpec, BindingView, ChildPatch, ChildSpec, ChildView, DropView, FdbView,
        NetworkFinding, NetworkPatch, NetworkSpec, NetworkView, ParentSpec, ParentView,
    },
    plan::{Action, Step},
};

/// Does what a command says.
pub(crate) async fn run(
    socket: &Path,
    output: Output,
    command: Command,
) -> anyhow::Result<ExitCode> {
    let client = &Client::new(socket);
    match command {
        Command::Daemon(_) => unreachable!("`main` runs the daemon"),
        Command::Parent(command) => parent(client, output, command).await?,
        Command::Network(command) => return network(client, output, command).await,
        Command::Child(command) => child(client, output, command).await?,
        Command::Binding(command) => binding(client, output, command).await?,
        Command::Fdb(FdbCommand::Ls { parent }) => {
            let parent = parent.map(|p| format!("?parent={}", quote(&p))).unwrap_or_default();
            output.rows::<FdbView>(client.get(&format!("/v1/fdb{parent}")).await?)?;
        }
        Command::Drops { parent } => {
            let parent = parent.map(|p| format!("?parent={}", quote(&p))).unwrap_or_default();
            output.rows::<DropView>(client.get(&format!("/v1/drops{parent}")).await?)?;
        }
        Command::Stats(args) => stats::run(client, output, args).await?,
        Command::Trace(args) => trace::run(client, output, args).await?,
        Command::Top(args) => top::run(client, output, args).await?,
        Command::Events(args) => events::run(client, output, args).await?,
        Command::Export => output.json(&client.get("/v1/export").await?)?,
        Command::Import { file, dry_run } => import(client, output, &file, dry_run).await?,
        Command::Reload { dry_run } => {
            let path = format!("/v1/reload?dry_run={dry_run}");
            let answer = client.post_bytes(&path, Vec::new()).await?;
            show_steps(client, output, answer, dry_run).await?;
        }
        Command::Docker(command) => return docker::run(client, output, command).await,
        Command::Doctor => return doctor::run(client, output).await,
        #[cfg(feature = "failpoints")]
        Command::Failpoints => output.text(&(crate::failpoint::ALL.join("\n") + "\n"))?,
        Command::Version => version(client, output).await?,
        Command::Completions { shell } => output.text(&manual::completions(shell)?)?,
        Command::Man { dir } => manual::pages(&dir)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn parent(client: &Client, output: Output, command: ParentCommand) -> anyhow::Result<()> {
    match command {
        ParentCommand::Add(add) => {
            let answer = client.post("/v1/parents", &ParentSpec::from(add)).await?;
            let view: ParentView = understand(answer.clone())?;
            output.rows::<ParentView>(answer)?;
            warn(output, &view);
        }
        ParentCommand::Rm { iface, force } => {
            let force = if force { "?force=true" } else { "" };
            client.delete(&format!("/v1/parents/{}{force}", quote(&iface))).await?;
            output.note(&format!("removed parent {iface}"));
        }
        ParentCommand::Ls => output.rows::<ParentView>(client.get("/v1/parents").await?)?,
        ParentCommand::Show { iface } => {
            output.fields(client.get(&format!("/v1/parents/{}", quote(&iface))).await?)?;
        }
    }
    Ok(())
}

fn warn(output: Output, view: &ParentView) {
    for problem in &view.problems {
        output.note(&format!("warning: {}: {problem}", view.iface));
    }
}

/// Reads the backup here first, where its name is known.
async fn import(client: &Client, output: Output, file: &Path, dry_run: bool) -> anyhow::Result<()> {
    let doing = || format!("cannot import {}", file.display());
    let bytes = if file == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(file)
    };
    let bytes = bytes.doing(doing)?;
    Backup::parse(&bytes).doing(doing)?;
    let answer = client.post_bytes(&format!("/v1/import?dry_run={dry_run}"), bytes).await?;
    show_steps(client, output, answer, dry_run).await
}

/// Shows the steps of a plan, and, if they were taken, what is wrong with the parents that they are
/// about.
async fn show_steps(
    client: &Client,
    output: Output,
    answer: Value,
    dry_run: bool,
) -> anyhow::Result<()> {
    let steps: Vec<Step> = understand(answer.clone())?;
    if steps.is_empty() && !output.is_json() {
        return output.text("nothing to do\n");
    }
    output.rows::<Step>(answer)?;
    let parents = steps.iter().filter(|step| !dry_run && step.action != Action::Remove);
    for iface in parents.filter_map(|step| step.object.strip_prefix("parent ")) {
        let view = client.get(&format!("/v1/parents/{}", quote(iface))).await?;
        warn(output, &understand(view)?);
    }
    Ok(())
}

async fn network(
    client: &Client,
    output: Output,
    command: NetworkCommand,
) -> anyhow::Result<ExitCode> {
    match command {
        NetworkCommand::Create(create) => {
            let answer = client.post("/v1/networks", &NetworkSpec::try_from(create)?).await?;
            output.rows::<NetworkView>(answer)?;
        }
        NetworkCommand::Set(set) => {
            let path = format!("/v1/networks/{}", quote(&set.name));
            let answer = client.patch(&path, &NetworkPatch::from(set)).await?;
            output.rows::<NetworkView>(answer)?;
        }
        NetworkCommand::Rm { name } => {
            client.delete(&format!("/v1/networks/{}", quote(&name))).await?;
            output.note(&format!("removed network {name}"));
        }
        NetworkCommand::Ls => output.rows::<NetworkView>(client.get("/v1/networks").await?)?,
        NetworkCommand::Inspect { name } => {
            output.fields(client.get(&format!("/v1/networks/{}", quote(&name))).await?)?;
        }
        NetworkCommand::Check { name } => return network_check(client, output, name).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn network_check(
    client: &Client,
    output: Output,
    name: Option<String>,
) -> anyhow::Result<ExitCode> {
    let names = if let Some(name) = name {
        vec![name]
    } else {
        let all: Vec<NetworkView> = understand(client.get("/v1/networks").await?)?;
        all.into_iter().map(|network| network.spec.name).collect()
    };
    let mut findings: Vec<Value> = Vec::new();
    for name in names {
        let answer = client.get(&format!("/v1/networks/{}/check", quote(&name))).await?;
        findings.extend(understand::<Vec<Value>>(answer)?);
    }
    let good = findings.is_empty();
    if good {
        output.note("nothing is wrong");
    }
    output.rows::<NetworkFinding>(Value::Array(findings))?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn child(client: &Client, output: Output, command: ChildCommand) -> anyhow::Result<()> {
    match command {
        ChildCommand::Add(add) => {
            let answer = client.post("/v1/children", &ChildSpec::from(add)).await?;
            output.rows::<ChildView>(answer)?;
        }
        ChildCommand::Set(set) => {
            let path = format!("/v1/children/{}", quote(&set.name));
            let answer = client.patch(&path, &ChildPatch::try_from(set)?).await?;
            output.rows::<ChildView>(answer)?;
        }
        ChildCommand::Adopt { name } => {
            let answer = client.put(&format!("/v1/adoptions/{}", quote(&name)), &json!({})).await?;
            output.rows::<ChildView>(answer)?;
        }
        ChildCommand::Rm { name } => {
            client.delete(&format!("/v1/children/{}", quote(&name))).await?;
            output.note(&format!("removed child {name}"));
        }
        ChildCommand::Ls { network } => {
            if let Some(name) = &network {
                client.get(&format!("/v1/networks/{}", quote(name))).await?;
            }
            let mut answer = client.get("/v1/children").await?;
            if let (Some(network), Value::Array(children)) = (network, &mut answer) {
                children.retain(|child| child["network"] == network.as_str());
            }
            output.rows::<ChildView>(answer)?;
        }
        ChildCommand::Inspect { name } => {
            output.fields(client.get(&format!("/v1/children/{}", quote(&name))).await?)?;
        }
    }
    Ok(())
}

async fn binding(client: &Client, output: Output, command: BindingCommand) -> anyhow::Result<()> {
    let place = |network: &str, ip: IpAddr| {
        format!("/v1/networks/{}/bindings/{}", quote(network), quote(&ip.to_string()))
    };
    match command {
        BindingCommand::Add { ip, mac, network } => {
            let answer = client.put(&place(&network, ip), &BindingSpec { mac }).await?;
            output.rows::<BindingView>(answer)?;
        }
        BindingCommand::Rm { ip, network } => {
            client.delete(&place(&network, ip)).await?;
            output.note(&format!("removed the binding of {ip} in network {network}"));
        }
        BindingCommand::Ls { network } => {
            let network = network.map(|n| format!("?network={}", quote(&n))).unwrap_or_default();
            let answer = client.get(&format!("/v1/bindings{network}")).await?;
            output.rows::<BindingView>(answer)?;
        }
    }
    Ok(())
}

async fn version(client: &Client, output: Output) -> anyhow::Result<()> {
    let daemon = match client.get("/v1/version").await {
        Ok(mut answer) => answer["version"].take(),
        Err(e) => {
            tracing::info!("{e}");
            Value::Null
        }
    };
    output.fields(json!({ "client": env!("CARGO_PKG_VERSION"), "daemon": daemon }))
}

/// Says what went wrong, unless it is only that nobody reads on; the exit code for it.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let broken_pipe = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    if error.downcast_ref().is_some_and(broken_pipe) {
        return ExitCode::SUCCESS;
    }
    output::complain(&format!("error: {error:#}"));
    ExitCode::from(match error.downcast_ref().map(|Error { kind, .. }| kind) {
        Some(ErrorKind::Invalid) => 2,
        Some(ErrorKind::NotFound) => 3,
        Some(ErrorKind::NoDaemon) => 4,
        Some(ErrorKind::Conflict | ErrorKind::Failed) | None => 1,
    })
}
