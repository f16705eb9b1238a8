//! Docker's containers.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use serde_json::Value;

use crate::{docker::Docker, mac::Mac, netns::Netns};

/// A container. It is not removed on drop, but ends with the room of its Docker.
#[derive(Debug)]
pub struct Container {
    docker: Docker,
    name: String,
}

impl Container {
    /// The container of that name.
    #[must_use]
    pub fn new(docker: Docker, name: &str) -> Self {
        Self { docker, name: name.to_owned() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace, while it runs: Docker gives it another one each time it starts.
    #[track_caller]
    #[must_use]
    pub fn ns(&self) -> Netns {
        let settings = &self.inspect()["NetworkSettings"];
        let path = settings["SandboxKey"].as_str().expect("a path");
        assert!(!path.is_empty(), "the container {} does not run", self.name);
        Netns::at(&self.name, self.docker.room().outside(Path::new(path)))
    }

    /// What `docker inspect` says of it.
    #[track_caller]
    #[must_use]
    pub fn inspect(&self) -> Value {
        self.docker.inspect(&self.name)
    }

    /// What `docker inspect` says of it and a network.
    #[track_caller]
    #[must_use]
    pub fn endpoint(&self, network: &str) -> Value {
        let endpoint = self.inspect()["NetworkSettings"]["Networks"][network].take();
        assert!(endpoint.is_object(), "the container {} is not in {network}", self.name);
        endpoint
    }

    /// Its IPv4 address in a network.
    #[track_caller]
    #[must_use]
    pub fn ip(&self, network: &str) -> Ipv4Addr {
        parse(&self.endpoint(network)["IPAddress"])
    }

    /// Its IPv6 address in a network.
    #[track_caller]
    #[must_use]
    pub fn ip6(&self, network: &str) -> Ipv6Addr {
        parse(&self.endpoint(network)["GlobalIPv6Address"])
    }

    /// Its MAC in a network.
    #[track_caller]
    #[must_use]
    pub fn mac(&self, network: &str) -> Mac {
        parse(&self.endpoint(network)["MacAddress"])
    }

    /// Runs `docker exec` in it and returns its stdout; panics if it fails.
    #[track_caller]
    pub fn exec(&self, words: &[&str]) -> String {
        self.docker.run(&[&["exec", &self.name], words].concat())
    }

    /// Whether `docker exec ping` in it is answered.
    #[track_caller]
    #[must_use]
    pub fn pings(&self, to: impl Into<IpAddr>) -> bool {
        let to = to.into().to_string();
        let words = ["exec", &self.name, "ping", "-c", "1", "-W", "1", &to];
        self.docker.output(&words).status.success()
    }

    /// Runs `docker VERB ARGUMENTS CONTAINER`: `stop`, `start`, `kill`, `rm --force`, ….
    #[track_caller]
    pub fn docker(&self, words: &[&str]) -> String {
        self.docker.run(&[words, &[&self.name]].concat())
    }
}

#[track_caller]
fn parse<T: std::str::FromStr>(value: &Value) -> T {
    let text = value.as_str().unwrap_or_default();
    text.parse().unwrap_or_else(|_| panic!("docker inspect says {value}"))
}
