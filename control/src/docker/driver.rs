//! The network driver.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use axum::{Router, routing::post};
use ipnetwork::IpNetwork;
use serde::Serialize;
use serde_json::json;

use super::{
    Call, Context, Done, Reply, ipam,
    message::{self, CreateEndpoint, CreateNetwork, Endpoint, IpamData, Join, Network},
    nothing_to_undo,
    options::{self, NetworkOptions},
    within_bound,
};
use crate::{
    check::{self, Check},
    engine::{DockerNetworkSpec, EndpointSpec, Vlans},
    error::{Context as _, Error, Result},
    model::{Mac, NetworkSpec, default_max_addresses},
    subnet::{Gateway, SubnetSpec},
};

/// So much of one of Docker's IDs is in a name, as it prints them itself.
const ID_SHOWN: usize = 12;

pub(super) fn routes() -> Router {
    Router::new()
        .route("/NetworkDriver.GetCapabilities", post(capabilities))
        .route("/NetworkDriver.GwAllocCheck", post(gw_alloc_check))
        .route("/NetworkDriver.AllocateNetwork", post(nothing_to_allocate))
        .route("/NetworkDriver.FreeNetwork", post(nothing))
        .route("/NetworkDriver.CreateNetwork", post(create_network))
        .route("/NetworkDriver.DeleteNetwork", post(delete_network))
        .route("/NetworkDriver.CreateEndpoint", post(create_endpoint))
        .route("/NetworkDriver.EndpointOperInfo", post(oper_info))
        .route("/NetworkDriver.DeleteEndpoint", post(delete_endpoint))
        .route("/NetworkDriver.Join", post(join))
        .route("/NetworkDriver.Leave", post(leave))
        .route("/NetworkDriver.ProgramExternalConnectivity", post(nothing))
        .route("/NetworkDriver.RevokeExternalConnectivity", post(nothing))
        .route("/NetworkDriver.DiscoverNew", post(nothing))
        .route("/NetworkDriver.DiscoverDelete", post(nothing))
}

/// Networks are of one host, and containers of several hosts reach each other in them.
async fn capabilities() -> Reply<impl Serialize> {
    Reply(Ok(json!({ "Scope": "local", "ConnectivityScope": "global", "GwAllocChecker": true })))
}

/// As with Docker's own driver: a gateway that nobody names is none.
async fn gw_alloc_check(Call(_): Call<serde_json::Value>) -> Reply<impl Serialize> {
    Reply(Ok(json!({ "SkipIPv4": true, "SkipIPv6": true })))
}

/// For networks of more than one host, which this driver has none of.
async fn nothing_to_allocate(Call(_): Call<serde_json::Value>) -> Reply<impl Serialize> {
    Reply(Ok(json!({ "Options": {} })))
}

async fn nothing(Call(_): Call<serde_json::Value>) -> Reply<Done> {
    Reply(Ok(Done {}))
}

async fn oper_info(Call(_): Call<Endpoint>) -> Reply<impl Serialize> {
    Reply(Ok(json!({ "Value": {} })))
}

/// The first characters of an ID, as part of a name.
fn shown(id: &str) -> Result<&str> {
    check::name(id)
        .map_err(|_| Error::invalid(format!("\"{}\" is not an ID", id.escape_debug())))?;
    Ok(id.get(..ID_SHOWN).unwrap_or(id))
}

async fn create_network((engine, caller): Context, Call(call): Call<CreateNetwork>) -> Reply<Done> {
    let id = call.network.clone();
    let doing = || "cannot create the network".to_owned();
    let spec = network_spec(call)
        .doing(doing)
        .map(|spec| DockerNetworkSpec { owner: caller.0.0.clone(), ..spec });
    let spec = match spec {
        Ok(spec) => spec,
        Err(e) => return Reply(Err(e)),
    };
    let (undo, ahead) = (engine.clone(), engine.clone());
    let work = async move { engine.docker_network_create(spec).await };
    let undo = move |()| async move { undo.docker_network_rm(&id).await };
    let made = within_bound(work, undo).await.doing(doing);
    if made.is_ok() {
        tokio::spawn(async move { ahead.look_ahead_everywhere().await });
    }
    Reply(made.map(|()| Done {}))
}

fn network_spec(call: CreateNetwork) -> Result<DockerNetworkSpec> {
    let options = NetworkOptions::read(&call.options)?;
    let shown = shown(&call.network)?;
    let is_isolated = options.parent.is_none();
    let (vlan, trunk) = match options.vlans {
        Vlans::Access(vlan) => (vlan, None),
        Vlans::Trunk(trunk) => (0, Some(trunk)),
    };
    let data: Vec<&IpamData> = call.ipv4.iter().chain(&call.ipv6).collect();
    let mut subnets = Vec::new();
    let mut aux_addresses = BTreeMap::new();
    for data in &data {
        let Some(pool) = pool_of(data)? else { continue };
        let gateway = message::address(&data.gateway)?.map_or(Gateway::None, Gateway::At);
        subnets.push(SubnetSpec { subnet: pool, gateway, ip_range: None });
        for (name, text) in &data.aux {
            if let Some(ip) = message::address(text)? {
                aux_addresses.insert(aux_name(name, &aux_addresses), ip);
            }
        }
    }
    let of_space = |wanted: &str| -> Result<Vec<IpNetwork>> {
        let of_it = data.iter().filter(|data| data.address_space == wanted);
        of_it.filter_map(|data| pool_of(data).transpose()).collect()
    };
    let network = NetworkSpec {
        name: format!("docker-{shown}"),
        parent: options.parent.unwrap_or_else(|| format!("ml-{shown}")),
        vlan,
        kind: options.kind,
        mode: options.mode,
        mtu: options.mtu,
        subnets,
        aux_addresses,
        // Whoever gets an address gets its MAC, too: nobody on the LAN remembers another one.
        quarantine: 0,
        probe: options.probe,
        probe_interval: options.probe_interval,
        internal: options.internal || is_isolated,
        slaac: None,
        routes: Vec::new(),
        arp: options.arp,
        security: options.security,
        trust: options.trust,
        storm: options.storm,
        max_addresses: default_max_addresses(),
        bindings: BTreeMap::new(),
    };
    network.check()?;
    Ok(DockerNetworkSpec {
        pools: of_space(ipam::ADDRESS_SPACE)?,
        id: call.network,
        network,
        trunk,
        isolated: is_isolated,
        owner: None,
    })
}

/// The subnet of a pool; Docker's driver `null` has one of everything, which is none.
fn pool_of(data: &IpamData) -> Result<Option<IpNetwork>> {
    Ok(message::subnet(&data.pool)?.filter(|pool| pool.prefix() != 0))
}

/// The name that an address is kept back under: Docker's may hold anything.
fn aux_name(name: &str, others: &BTreeMap<String, IpAddr>) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(64).collect();
    let mut name = if check::name(&plain).is_ok() { plain } else { format!("aux{plain}") };
    while others.contains_key(&name) {
        name.push('_');
    }
    name
}

async fn delete_network((engine, _): Context, Call(call): Call<Network>) -> Reply<Done> {
    let work = async move { engine.docker_network_rm(&call.network).await };
    let done = within_bound(work, nothing_to_undo).await;
    Reply(done.doing(|| "cannot remove the network".into()).map(|()| Done {}))
}

/// The name of the child of an endpoint.
fn child_of(endpoint: &str) -> Result<String> {
    Ok(format!("docker-{}", shown(endpoint)?))
}

async fn create_endpoint(
    (engine, caller): Context,
    Call(call): Call<CreateEndpoint>,
) -> Reply<impl Serialize> {
    let doing = || "cannot create the endpoint".to_owned();
    let asked = match asked_of(&call).doing(doing) {
        Ok(asked) => asked,
        Err(e) => return Reply(Err(e)),
    };
    let Asked { name, addresses, mac, vlans } = asked;
    let (id, which) = (call.endpoint.clone(), (name.clone(), call.endpoint.clone()));
    let undo = engine.clone();
    let work = async move {
        let (network, trunk) = engine.docker_place(&call.network, vlans).await?;
        let owner = caller.0.0.clone();
        engine
            .endpoint_create(EndpointSpec { name, id, network, addresses, mac, trunk, owner })
            .await
    };
    let undo = move |_| async move { undo.endpoint_delete((&which.0, &which.1)).await };
    let made = within_bound(work, undo).await.doing(doing);
    // What Docker has said itself must not be said again.
    let interface = |made: Option<Mac>| match made.filter(|_| mac.is_none()) {
        Some(mac) => json!({ "Interface": { "MacAddress": mac } }),
        None => json!({ "Interface": {} }),
    };
    Reply(made.map(interface))
}

/// What an endpoint was asked for with.
struct Asked {
    name: String,
    addresses: Vec<IpNetwork>,
    mac: Option<Mac>,
    vlans: Option<Vlans>,
}

fn asked_of(call: &CreateEndpoint) -> Result<Asked> {
    let interface = &call.interface;
    let mut addresses = Vec::new();
    for text in [&interface.ipv4, &interface.ipv6] {
        addresses.extend(message::subnet(text)?);
    }
    for address in &addresses {
        check::address(address.ip())?;
    }
    let mac = Some(interface.mac.as_str()).filter(|text| !text.is_empty());
    let mac: Option<Mac> = mac.map(str::parse).transpose()?;
    mac.map_or(Ok(()), check::station)?;
    let vlans = options::of_endpoint(&call.options)?;
    Ok(Asked { name: child_of(&call.endpoint)?, addresses, mac, vlans })
}

async fn delete_endpoint((engine, _): Context, Call(call): Call<Endpoint>) -> Reply<Done> {
    let work =
        async move { engine.endpoint_delete((&child_of(&call.endpoint)?, &call.endpoint)).await };
    let done = within_bound(work, nothing_to_undo).await;
    Reply(done.doing(|| "cannot remove the endpoint".into()).map(|()| Done {}))
}

async fn join((engine, caller): Context, Call(call): Call<Join>) -> Reply<message::Joined> {
    let doing = || "cannot join the endpoint to its container".to_owned();
    let name = match join_of(&call).doing(doing) {
        Ok(name) => name,
        Err(e) => return Reply(Err(e)),
    };
    let (undo, which) = (engine.clone(), (name.clone(), call.endpoint.clone()));
    let (owner, left_by) = (caller.0.0.clone(), caller.0.0.clone());
    let work = async move {
        let sandbox = Path::new(&call.sandbox);
        engine.endpoint_join((&name, &call.endpoint), sandbox, owner).await
    };
    let undo = move |_| async move { undo.endpoint_leave((&which.0, &which.1), left_by).await };
    let joined = within_bound(work, undo).await.doing(doing);
    Reply(joined.map(|joined| {
        let gateway = |is_ipv4| joined.gateways.iter().find(|ip| ip.is_ipv4() == is_ipv4).copied();
        message::Joined {
            gateway: gateway(true),
            gateway_ipv6: gateway(false),
            // Without a gateway Docker would add an interface on a bridge of its own.
            disable_gateway_service: gateway(true).is_none(),
            name: message::InterfaceName { source: joined.ifname, prefix: "eth" },
        }
    }))
}

fn join_of(call: &Join) -> Result<String> {
    check::netns(&call.sandbox)?;
    if !call.sandbox.starts_with('/') {
        return Err(Error::invalid(format!("\"{}\" is not the path of a sandbox", call.sandbox)));
    }
    child_of(&call.endpoint)
}

async fn leave((engine, caller): Context, Call(call): Call<Endpoint>) -> Reply<Done> {
    let work = async move {
        let which = (child_of(&call.endpoint)?, call.endpoint);
        engine.endpoint_leave((&which.0, &which.1), caller.0.0.clone()).await
    };
    let done = within_bound(work, nothing_to_undo).await;
    Reply(done.doing(|| "cannot take the endpoint from its container".into()).map(|()| Done {}))
}
