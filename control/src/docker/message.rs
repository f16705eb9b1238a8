//! What is said in the calls, as far as maclane listens: the names are Docker's. What is absent, `null`
//! or empty is the same to Docker, and so it is here.

use std::{collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A value, or that of an absent one for `null`.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// `CreateNetwork`.
#[derive(Debug, Deserialize)]
pub(super) struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub(super) network: String,
    #[serde(default, rename = "Options", deserialize_with = "or_default")]
    pub(super) options: Map<String, Value>,
    #[serde(default, rename = "IPv4Data", deserialize_with = "or_default")]
    pub(super) ipv4: Vec<IpamData>,
    #[serde(default, rename = "IPv6Data", deserialize_with = "or_default")]
    pub(super) ipv6: Vec<IpamData>,
}

/// A subnet of a network, from whoever gives out its addresses.
#[derive(Debug, Deserialize)]
pub(super) struct IpamData {
    #[serde(default, rename = "AddressSpace", deserialize_with = "or_default")]
    pub(super) address_space: String,
    #[serde(default, rename = "Pool", deserialize_with = "or_default")]
    pub(super) pool: String,
    #[serde(default, rename = "Gateway", deserialize_with = "or_default")]
    pub(super) gateway: String,
    #[serde(default, rename = "AuxAddresses", deserialize_with = "or_default")]
    pub(super) aux: BTreeMap<String, String>,
}

/// `DeleteNetwork`.
#[derive(Debug, Deserialize)]
pub(super) struct Network {
    #[serde(rename = "NetworkID")]
    pub(super) network: String,
}

/// `CreateEndpoint`.
#[derive(Debug, Deserialize)]
pub(super) struct CreateEndpoint {
    #[serde(rename = "NetworkID")]
    pub(super) network: String,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint: String,
    #[serde(default, rename = "Interface", deserialize_with = "or_default")]
    pub(super) interface: Interface,
    #[serde(default, rename = "Options", deserialize_with = "or_default")]
    pub(super) options: Map<String, Value>,
}

/// What an endpoint has already.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Interface {
    #[serde(default, rename = "Address", deserialize_with = "or_default")]
    pub(super) ipv4: String,
    #[serde(default, rename = "AddressIPv6", deserialize_with = "or_default")]
    pub(super) ipv6: String,
    #[serde(default, rename = "MacAddress", deserialize_with = "or_default")]
    pub(super) mac: String,
}

/// `EndpointOperInfo`, `Leave`, `DeleteEndpoint`.
#[derive(Debug, Deserialize)]
pub(super) struct Endpoint {
    #[serde(rename = "NetworkID")]
    #[expect(dead_code, reason = "a call without it is none")]
    pub(super) network: String,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint: String,
}

/// `Join`.
#[derive(Debug, Deserialize)]
pub(super) struct Join {
    #[serde(rename = "NetworkID")]
    #[expect(dead_code, reason = "a call without it is none")]
    pub(super) network: String,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint: String,
    #[serde(rename = "SandboxKey")]
    pub(super) sandbox: String,
}

/// What `Join` is answered.
#[derive(Debug, Serialize)]
pub(super) struct Joined {
    #[serde(rename = "InterfaceName")]
    pub(super) name: InterfaceName,
    #[serde(rename = "Gateway", skip_serializing_if = "Option::is_none")]
    pub(super) gateway: Option<IpAddr>,
    #[serde(rename = "GatewayIPv6", skip_serializing_if = "Option::is_none")]
    pub(super) gateway_ipv6: Option<IpAddr>,
    #[serde(rename = "DisableGatewayService")]
    pub(super) disable_gateway_service: bool,
}

/// The link, and what it is called in the container, before a number.
#[derive(Debug, Serialize)]
pub(super) struct InterfaceName {
    #[serde(rename = "SrcName")]
    pub(super) source: String,
    #[serde(rename = "DstPrefix")]
    pub(super) prefix: &'static str,
}

/// `RequestPool`.
#[derive(Debug, Deserialize)]
pub(super) struct RequestPool {
    #[serde(default, rename = "AddressSpace", deserialize_with = "or_default")]
    pub(super) address_space: String,
    #[serde(default, rename = "Pool", deserialize_with = "or_default")]
    pub(super) pool: String,
    #[serde(default, rename = "SubPool", deserialize_with = "or_default")]
    pub(super) sub_pool: String,
    #[serde(default, rename = "Options", deserialize_with = "or_default")]
    pub(super) options: BTreeMap<String, String>,
    #[serde(default, rename = "V6", deserialize_with = "or_default")]
    pub(super) v6: bool,
}

/// `ReleasePool`.
#[derive(Debug, Deserialize)]
pub(super) struct PoolId {
    #[serde(rename = "PoolID")]
    pub(super) pool: String,
}

/// `RequestAddress` and `ReleaseAddress`.
#[derive(Debug, Deserialize)]
pub(super) struct Address {
    #[serde(rename = "PoolID")]
    pub(super) pool: String,
    #[serde(default, rename = "Address", deserialize_with = "or_default")]
    pub(super) ip: String,
    #[serde(default, rename = "Options", deserialize_with = "or_default")]
    pub(super) options: BTreeMap<String, String>,
}

/// A subnet; nothing for none.
pub(super) fn subnet(text: &str) -> Result<Option<IpNetwork>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        Error::invalid(format!("\"{text}\" is not a subnet; write one such as 192.168.50.0/24"))
    })
}

/// An address, with or without a prefix length; nothing for none.
pub(super) fn address(text: &str) -> Result<Option<IpAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text.split_once('/').map_or(text, |(ip, _)| ip);
    bare.parse().map(Some).map_err(|_| {
        Error::invalid(format!("\"{text}\" is not an address; write one such as 192.168.50.9"))
    })
}
