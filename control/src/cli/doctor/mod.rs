//! `maclane doctor`: what this host can do, what is missing, and the way out. It only reads, and
//! needs no daemon.

mod kernel;
mod nic;

use std::process::ExitCode;

use serde_json::Value;

use super::output::{Output, understand};
use crate::{
    api::{VersionView, client::Client},
    dataplane,
    error::{ErrorKind, Result},
    model::{Finding, ParentView},
    netlink::Netlink,
};

/// An XDP program on an interface of this namespace.
type XdpProgram = (String, u32);

/// The XDP programs on the interfaces of this namespace.
async fn xdp_programs() -> Result<Vec<XdpProgram>> {
    let mut programs = Vec::new();
    for link in Netlink::own()?.links().await? {
        programs.extend(link.xdp.iter().map(|xdp| (link.name.clone(), xdp.program)));
    }
    Ok(programs)
}

/// The programs of others beside ours. They are left alone: what they drop or redirect on the way
/// in before ours, or on the way out after ours, maclane does not see.
async fn strangers(parents: &[ParentView]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Ok(netlink) = Netlink::own() else { return findings };
    for ParentView { iface, ifindex, .. } in parents {
        let Some(ifindex) = ifindex else { continue };
        let filters = netlink.filters(*ifindex).await.unwrap_or_default();
        let theirs = dataplane::strangers(iface, &filters);
        if !theirs.is_empty() {
            let detail = format!(
                "programs of others run beside maclane's: {}; see \"bpftool net show dev {iface}\"",
                theirs.join(", ")
            );
            findings.push(ok(&format!("tc {iface}"), detail));
        }
    }
    findings
}

/// Looks at everything; the exit code is 1 if something fails.
pub(super) async fn run(client: &Client, output: Output) -> anyhow::Result<ExitCode> {
    let mut findings = kernel::findings();
    let (daemon, parents) = daemon(client).await;
    findings.extend(daemon);
    let xdp = xdp_programs().await.unwrap_or_else(|e| {
        findings.push(warn("xdp", format!("cannot list the programs on interfaces: {e}")));
        Vec::new()
    });
    findings.extend(nic::findings(&parents, &xdp).await);
    findings.extend(strangers(&parents).await);
    let failed = findings.iter().any(|finding| finding.status == "fail");
    output.rows::<Finding>(serde_json::to_value(findings)?)?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What the daemon says of itself and of its parents.
async fn daemon(client: &Client) -> (Vec<Finding>, Vec<ParentView>) {
    let version = match ask::<VersionView>(client, "/v1/version").await {
        Ok(version) => version,
        Err(finding) => return (vec![finding], Vec::new()),
    };
    let mine = env!("CARGO_PKG_VERSION");
    let running = format!("version {} runs with pid {}", version.version, version.pid);
    let mut findings = vec![if version.version == mine {
        ok("daemon", running)
    } else {
        warn("daemon", format!("{running}, this program is version {mine}; restart the daemon"))
    }];
    let parents = match ask::<Vec<ParentView>>(client, "/v1/parents").await {
        Ok(parents) => parents,
        Err(finding) => {
            findings.push(finding);
            Vec::new()
        }
    };
    for parent in &parents {
        let check = format!("parent {}", parent.iface);
        if parent.problems.is_empty() {
            findings.push(ok(&check, "no problems"));
        }
        findings.extend(parent.problems.iter().map(|problem| warn(&check, problem.as_str())));
    }
    (findings, parents)
}

async fn ask<T: serde::de::DeserializeOwned>(client: &Client, path: &str) -> Result<T, Finding> {
    let answer: Value = client.get(path).await.map_err(|e| match e.kind {
        ErrorKind::NoDaemon => warn("daemon", e.message),
        _ => fail("daemon", e.message),
    })?;
    understand(answer).map_err(|e| fail("daemon", format!("{e:#}")))
}

fn ok(check: &str, detail: impl Into<String>) -> Finding {
    finding(check, "ok", detail)
}

fn warn(check: &str, detail: impl Into<String>) -> Finding {
    finding(check, "warn", detail)
}

fn fail(check: &str, detail: impl Into<String>) -> Finding {
    finding(check, "fail", detail)
}

fn finding(check: &str, status: &str, detail: impl Into<String>) -> Finding {
    Finding { check: check.into(), status: status.into(), detail: detail.into() }
}
