//! The IPAM driver: pools, and addresses that nobody on the LAN has.

use axum::{Router, routing::post};
use ipnetwork::IpNetwork;
use serde::Serialize;
use serde_json::json;

use super::{
    Call, Context, Done, Reply,
    message::{self, Address, PoolId, RequestPool},
    nothing_to_undo, options, within_bound,
};
use crate::{
    engine::AddressRequest,
    error::{Context as _, Error, Result},
};

/// What Docker calls the pools of this driver, all together.
pub(super) const ADDRESS_SPACE: &str = "maclane";

/// The option that says what an address is for, and its value for a gateway.
const PURPOSE: &str = "RequestAddressType";
const GATEWAY: &str = "com.docker.network.gateway";

pub(super) fn routes() -> Router {
    Router::new()
        .route("/IpamDriver.GetCapabilities", post(capabilities))
        .route("/IpamDriver.GetDefaultAddressSpaces", post(address_spaces))
        .route("/IpamDriver.RequestPool", post(request_pool))
        .route("/IpamDriver.ReleasePool", post(release_pool))
        .route("/IpamDriver.RequestAddress", post(request_address))
        .route("/IpamDriver.ReleaseAddress", post(release_address))
}

/// What was given out is remembered here.
async fn capabilities() -> Reply<impl Serialize> {
    Reply(Ok(json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false })))
}

async fn address_spaces() -> Reply<impl Serialize> {
    Reply(Ok(json!({
        "LocalDefaultAddressSpace": ADDRESS_SPACE,
        "GlobalDefaultAddressSpace": ADDRESS_SPACE,
    })))
}

async fn request_pool(
    (engine, caller): Context,
    Call(call): Call<RequestPool>,
) -> Reply<impl Serialize> {
    let doing = || "cannot give out a pool".to_owned();
    let wanted = match wanted_of(&call).doing(doing) {
        Ok(wanted) => wanted,
        Err(e) => return Reply(Err(e)),
    };
    let undo = engine.clone();
    let work = async move { engine.pool_request(wanted, call.v6, caller.0.0.clone()).await };
    let undo = move |(id, _): (String, _)| async move { undo.pool_release(&id).await };
    let given = within_bound(work, undo).await.doing(doing);
    Reply(given.map(|(id, pool)| json!({ "PoolID": id, "Pool": pool, "Data": {} })))
}

/// The pool that is asked for, and the part of it that addresses are given out of.
fn wanted_of(call: &RequestPool) -> Result<Option<(IpNetwork, Option<IpNetwork>)>> {
    // Docker's own say nothing to this driver.
    if let Some(name) = call.options.keys().find(|name| !name.starts_with(options::OF_DOCKER)) {
        return Err(Error::invalid(format!(
            "there is no option \"{name}\" of maclane's IPAM, which has none; leave --ipam-opt out"
        )));
    }
    if !matches!(call.address_space.as_str(), "" | ADDRESS_SPACE) {
        return Err(Error::invalid(format!(
            "there is no address space \"{}\"; the only one is \"{ADDRESS_SPACE}\"",
            call.address_space
        )));
    }
    let (pool, range) = (message::subnet(&call.pool)?, message::subnet(&call.sub_pool)?);
    match (pool, range) {
        (Some(pool), range) => Ok(Some((pool, range))),
        (None, None) => Ok(None),
        (None, Some(range)) => {
            Err(Error::invalid(format!("the range {range} is of no pool; name its --subnet")))
        }
    }
}

async fn release_pool((engine, _): Context, Call(call): Call<PoolId>) -> Reply<Done> {
    let work = async move { engine.pool_release(&call.pool).await };
    let done = within_bound(work, nothing_to_undo).await;
    Reply(done.doing(|| "cannot take back the pool".into()).map(|()| Done {}))
}

async fn request_address(
    (engine, caller): Context,
    Call(call): Call<Address>,
) -> Reply<impl Serialize> {
    let doing = || "cannot give out an address".to_owned();
    let ip = match message::address(&call.ip).doing(doing) {
        Ok(ip) => ip,
        Err(e) => return Reply(Err(e)),
    };
    let request = AddressRequest {
        pool: call.pool.clone(),
        ip,
        is_gateway: call.options.get(PURPOSE).is_some_and(|purpose| purpose == GATEWAY),
        owner: caller.0.0.clone(),
    };
    let (undo, ahead, pool) = (engine.clone(), engine.clone(), call.pool.clone());
    let work = async move { engine.address_request(request).await };
    let undo = move |address: IpNetwork| async move {
        undo.address_release(&call.pool, address.ip()).await
    };
    let given = within_bound(work, undo).await.doing(doing);
    tokio::spawn(async move { ahead.look_ahead(&pool).await });
    Reply(given.map(|address| json!({ "Address": address, "Data": {} })))
}

async fn release_address((engine, _): Context, Call(call): Call<Address>) -> Reply<Done> {
    let doing = || "cannot take back the address".to_owned();
    let ip = match message::address(&call.ip).doing(doing) {
        Ok(Some(ip)) => ip,
        Ok(None) => return Reply(Err(Error::invalid("no address is named"))),
        Err(e) => return Reply(Err(e)),
    };
    let work = async move { engine.address_release(&call.pool, ip).await };
    Reply(within_bound(work, nothing_to_undo).await.doing(doing).map(|()| Done {}))
}
