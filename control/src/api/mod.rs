//! The daemon's HTTP API: `/v1/…`, JSON both ways, described by `/v1/openapi.json`.

pub(crate) mod client;
mod events;
mod http;
mod metrics;
pub(crate) mod server;
mod trace;

pub(crate) use self::http::{Body, detach};
#[cfg(feature = "fuzzing")]
pub(crate) use self::http::{Spec as SpecOfBody, harden};
pub(crate) use self::metrics::MetricsServer;

use std::sync::Arc;

use axum::{Json, Router, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, IntoResponses, OpenApi, ToSchema, openapi::OpenApi as Description};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    backup::{BACKUP_MAX, Backup},
    engine::Engine,
    error::{Context, ErrorBody, Result},
    model::{
        BindingSpec, BindingView, ChildPatch, ChildSpec, ChildView, DockerNetworkView, DropView,
        FdbView, NetworkFinding, NetworkPatch, NetworkSpec, NetworkView, ParentSpec, ParentView,
        StatsView,
    },
    plan::Step,
};
use http::{Name, NameAndIp, Query, Spec};

/// What the daemon is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct VersionView {
    /// The version of the daemon.
    pub(crate) version: String,
    /// Its process ID.
    pub(crate) pid: u32,
}

/// How a parent is removed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Removal {
    /// Remove its networks and children with it.
    #[serde(default)]
    force: bool,
}

/// How something is done.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Trial {
    /// Only say what would be done.
    #[serde(default)]
    dry_run: bool,
}

/// Which parent is asked about.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Selection {
    /// Only this parent; all of them if it is left out.
    parent: Option<String>,
}

/// Which network is asked about.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct OfNetwork {
    /// Only this network; all of them if it is left out.
    network: Option<String>,
}

/// What every request may be answered instead of what it asked for.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes responses, is never made")]
enum Failure {
    /// The request makes no sense, whatever the state.
    #[response(status = BAD_REQUEST)]
    Invalid(ErrorBody),
    /// What was named does not exist.
    #[response(status = NOT_FOUND)]
    NotFound(ErrorBody),
    /// The request stands against what is there.
    #[response(status = CONFLICT)]
    Conflict(ErrorBody),
    /// It should have worked and did not.
    #[response(status = INTERNAL_SERVER_ERROR)]
    Failed(ErrorBody),
}

type App = State<Arc<Engine>>;
type Created<T> = Result<(StatusCode, Json<T>)>;

/// The API over an engine.
pub(crate) fn router(engine: Arc<Engine>) -> Router {
    http::harden(described().0.with_state(engine))
}

/// The routes and their description, from one definition.
fn described() -> (Router<Arc<Engine>>, Description) {
    #[derive(OpenApi)]
    #[openapi(
        info(
            title = "maclane",
            description = "Parents, networks and children of one host's maclane daemon. Errors have one shape, `ErrorBody`, whatever went wrong."
        ),
        components(schemas(ErrorBody))
    )]
    struct Api;

    let (router, mut description) = OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(version))
        .routes(routes!(openapi))
        .routes(routes!(parents, parent_add))
        .routes(routes!(parent, parent_rm))
        .routes(routes!(networks, network_create))
        .routes(routes!(network, network_set, network_rm))
        .routes(routes!(network_check))
        .routes(routes!(binding_put, binding_rm))
        .routes(routes!(bindings))
        .routes(routes!(children, child_add))
        .routes(routes!(child, child_set, child_rm))
        .routes(routes!(child_adopt))
        .routes(routes!(fdb))
        .routes(routes!(stats))
        .routes(routes!(drops))
        .routes(routes!(metrics::metrics))
        .routes(routes!(events::events))
        .routes(routes!(events::stream))
        .routes(routes!(trace::trace))
        .routes(routes!(export))
        .routes(routes!(import))
        .routes(routes!(reload))
        .routes(routes!(docker))
        .split_for_parts();
    // OpenAPI has no word for a parameter that may hold slashes.
    description.paths.paths = std::mem::take(&mut description.paths.paths)
        .into_iter()
        .map(|(path, item)| (path.replace("{*", "{"), item))
        .collect();
    (router, description)
}

/// The daemon's version.
#[utoipa::path(get, path = "/v1/version", responses((status = OK, body = VersionView)))]
async fn version() -> Json<VersionView> {
    Json(VersionView { version: env!("CARGO_PKG_VERSION").into(), pid: std::process::id() })
}

/// This description.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = OK, body = Object)))]
async fn openapi() -> Json<Description> {
    Json(described().1)
}

/// All parents.
#[utoipa::path(get, path = "/v1/parents", responses((status = OK, body = Vec<ParentView>), Failure))]
async fn parents(State(engine): App) -> Result<Json<Vec<ParentView>>> {
    engine.parents().await.map(Json)
}

/// Adds a parent.
#[utoipa::path(post, path = "/v1/parents", request_body = ParentSpec, responses((status = CREATED, body = ParentView), Failure))]
async fn parent_add(State(engine): App, Spec(spec): Spec<ParentSpec>) -> Created<ParentView> {
    engine.parent_add(spec).await.map(created)
}

/// One parent.
#[utoipa::path(get, path = "/v1/parents/{iface}", params(("iface" = String, Path)), responses((status = OK, body = ParentView), Failure))]
async fn parent(State(engine): App, Name(iface): Name) -> Result<Json<ParentView>> {
    engine.parent(&iface).await.map(Json)
}

/// Removes a parent.
#[utoipa::path(delete, path = "/v1/parents/{iface}", params(("iface" = String, Path), Removal), responses((status = NO_CONTENT), Failure))]
async fn parent_rm(
    State(engine): App,
    Name(iface): Name,
    Query(Removal { force }): Query<Removal>,
) -> Result<StatusCode> {
    engine.parent_rm(&iface, force).await.map(gone)
}

/// All networks.
#[utoipa::path(get, path = "/v1/networks", responses((status = OK, body = Vec<NetworkView>), Failure))]
async fn networks(State(engine): App) -> Result<Json<Vec<NetworkView>>> {
    engine.networks().await.map(Json)
}

/// Creates a network.
#[utoipa::path(post, path = "/v1/networks", request_body = NetworkSpec, responses((status = CREATED, body = NetworkView), Failure))]
async fn network_create(State(engine): App, Spec(spec): Spec<NetworkSpec>) -> Created<NetworkView> {
    engine.network_create(spec).await.map(created)
}

/// One network.
#[utoipa::path(get, path = "/v1/networks/{name}", params(("name" = String, Path)), responses((status = OK, body = NetworkView), Failure))]
async fn network(State(engine): App, Name(name): Name) -> Result<Json<NetworkView>> {
    engine.network(&name).await.map(Json)
}

/// Changes the policy of a network, and nothing else; what is absent stays as it is.
#[utoipa::path(patch, path = "/v1/networks/{name}", params(("name" = String, Path)), request_body = NetworkPatch, responses((status = OK, body = NetworkView), Failure))]
async fn network_set(
    State(engine): App,
    Name(name): Name,
    Spec(patch): Spec<NetworkPatch>,
) -> Result<Json<NetworkView>> {
    engine.network_set(&name, patch).await.map(Json)
}

/// Removes a network.
#[utoipa::path(delete, path = "/v1/networks/{name}", params(("name" = String, Path)), responses((status = NO_CONTENT), Failure))]
async fn network_rm(State(engine): App, Name(name): Name) -> Result<StatusCode> {
    engine.network_rm(&name).await.map(gone)
}

/// What is wrong with a network: leases without links, links without leases, overlapping subnets, a
/// gateway that does not answer, a subnet that the host routes elsewhere, strangers with an address.
#[utoipa::path(get, path = "/v1/networks/{name}/check", params(("name" = String, Path)), responses((status = OK, body = Vec<NetworkFinding>), Failure))]
async fn network_check(State(engine): App, Name(name): Name) -> Result<Json<Vec<NetworkFinding>>> {
    engine.network_check(&name).await.map(Json)
}

/// Pins an address on the wire to the MAC of its station: children never hear another MAC claim it.
#[utoipa::path(put, path = "/v1/networks/{name}/bindings/{ip}", params(("name" = String, Path), ("ip" = String, Path)), request_body = BindingSpec, responses((status = OK, body = BindingView), Failure))]
async fn binding_put(
    State(engine): App,
    NameAndIp(name, ip): NameAndIp,
    Spec(binding): Spec<BindingSpec>,
) -> Result<Json<BindingView>> {
    engine.binding_put(&name, ip, binding).await.map(Json)
}

/// Takes the pin of an address away.
#[utoipa::path(delete, path = "/v1/networks/{name}/bindings/{ip}", params(("name" = String, Path), ("ip" = String, Path)), responses((status = NO_CONTENT), Failure))]
async fn binding_rm(State(engine): App, NameAndIp(name, ip): NameAndIp) -> Result<StatusCode> {
    engine.binding_rm(&name, ip).await.map(gone)
}

/// Whose addresses are: those that are pinned, and the leases of children.
#[utoipa::path(get, path = "/v1/bindings", params(OfNetwork), responses((status = OK, body = Vec<BindingView>), Failure))]
async fn bindings(
    State(engine): App,
    Query(OfNetwork { network }): Query<OfNetwork>,
) -> Result<Json<Vec<BindingView>>> {
    engine.bindings(network.as_deref()).await.map(Json)
}

/// All children, adopted ones too.
#[utoipa::path(get, path = "/v1/children", responses((status = OK, body = Vec<ChildView>), Failure))]
async fn children(State(engine): App) -> Result<Json<Vec<ChildView>>> {
    engine.children().await.map(Json)
}

/// Adds a child.
#[utoipa::path(post, path = "/v1/children", request_body = ChildSpec, responses((status = CREATED, body = ChildView), Failure))]
async fn child_add(State(engine): App, Spec(spec): Spec<ChildSpec>) -> Created<ChildView> {
    engine.child_add(spec).await.map(created)
}

/// One child; an adopted one is named `PARENT/MAC`, with or without `%2F` for the slash.
#[utoipa::path(get, path = "/v1/children/{*name}", params(("name" = String, Path)), responses((status = OK, body = ChildView), Failure))]
async fn child(State(engine): App, Name(name): Name) -> Result<Json<ChildView>> {
    engine.child(&name).await.map(Json)
}

/// Changes the policy of a child, and nothing else; what is absent stays as it is.
#[utoipa::path(patch, path = "/v1/children/{*name}", params(("name" = String, Path)), request_body = ChildPatch, responses((status = OK, body = ChildView), Failure))]
async fn child_set(
    State(engine): App,
    Name(name): Name,
    Spec(patch): Spec<ChildPatch>,
) -> Result<Json<ChildView>> {
    engine.child_set(&name, patch).await.map(Json)
}

/// Removes a child.
#[utoipa::path(delete, path = "/v1/children/{*name}", params(("name" = String, Path)), responses((status = NO_CONTENT), Failure))]
async fn child_rm(State(engine): App, Name(name): Name) -> Result<StatusCode> {
    engine.child_rm(&name).await.map(gone)
}

/// Takes an isolated macvlan link for a third party's from now on.
#[utoipa::path(put, path = "/v1/adoptions/{*name}", params(("name" = String, Path)), responses((status = OK, body = ChildView), Failure))]
async fn child_adopt(State(engine): App, Name(name): Name) -> Result<Json<ChildView>> {
    engine.child_adopt(&name).await.map(Json)
}

/// The forwarding table.
#[utoipa::path(get, path = "/v1/fdb", params(Selection), responses((status = OK, body = Vec<FdbView>), Failure))]
async fn fdb(
    State(engine): App,
    Query(Selection { parent }): Query<Selection>,
) -> Result<Json<Vec<FdbView>>> {
    engine.fdb(parent.as_deref()).await.map(Json)
}

/// Counters of ports and of drops.
#[utoipa::path(get, path = "/v1/stats", params(Selection), responses((status = OK, body = Vec<StatsView>), Failure))]
async fn stats(
    State(engine): App,
    Query(Selection { parent }): Query<Selection>,
) -> Result<Json<Vec<StatsView>>> {
    engine.stats(parent.as_deref()).await.map(Json)
}

/// Frames that were dropped, by port and reason, with the last one of each.
#[utoipa::path(get, path = "/v1/drops", params(Selection), responses((status = OK, body = Vec<DropView>), Failure))]
async fn drops(
    State(engine): App,
    Query(Selection { parent }): Query<Selection>,
) -> Result<Json<Vec<DropView>>> {
    engine.drops(parent.as_deref()).await.map(Json)
}

/// Everything that was asked for, and what children got: a backup.
#[utoipa::path(get, path = "/v1/export", responses((status = OK, body = Backup), Failure))]
async fn export(State(engine): App) -> Json<Backup> {
    Json(engine.export().await)
}

/// Makes what a backup has and what is not there: all of it, or nothing.
#[utoipa::path(post, path = "/v1/import", params(Trial), request_body = Backup, responses((status = OK, body = Vec<Step>), Failure))]
async fn import(
    State(engine): App,
    Query(Trial { dry_run }): Query<Trial>,
    Body(bytes): Body<BACKUP_MAX>,
) -> Result<Json<Vec<Step>>> {
    let backup = Backup::parse(&bytes).doing(|| "cannot understand the backup".into())?;
    engine.import(backup, dry_run).await.map(Json)
}

/// Makes parents and networks what the configuration file says: all of it, or nothing.
#[utoipa::path(post, path = "/v1/reload", params(Trial), responses((status = OK, body = Vec<Step>), Failure))]
async fn reload(
    State(engine): App,
    Query(Trial { dry_run }): Query<Trial>,
) -> Result<Json<Vec<Step>>> {
    engine.reload(dry_run).await.map(Json)
}

/// The networks of Docker, with their endpoints.
#[utoipa::path(get, path = "/v1/docker", responses((status = OK, body = Vec<DockerNetworkView>), Failure))]
async fn docker(State(engine): App) -> Json<Vec<DockerNetworkView>> {
    Json(engine.docker().await)
}

fn created<T>(view: T) -> (StatusCode, Json<T>) {
    (StatusCode::CREATED, Json(view))
}

fn gone((): ()) -> StatusCode {
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_holds_every_path_and_no_wildcard() {
        let description = serde_json::to_value(described().1).unwrap();
        let paths: Vec<_> = description["paths"].as_object().unwrap().keys().collect();
        let expected = [
            "/metrics",
            "/v1/adoptions/{name}",
            "/v1/bindings",
            "/v1/children",
            "/v1/children/{name}",
            "/v1/docker",
            "/v1/drops",
            "/v1/events",
            "/v1/events/stream",
            "/v1/export",
            "/v1/fdb",
            "/v1/import",
            "/v1/networks",
            "/v1/networks/{name}",
            "/v1/networks/{name}/bindings/{ip}",
            "/v1/networks/{name}/check",
            "/v1/openapi.json",
            "/v1/parents",
            "/v1/parents/{iface}",
            "/v1/reload",
            "/v1/stats",
            "/v1/trace",
            "/v1/version",
        ];
        assert_eq!(paths, expected);
    }

    #[test]
    fn every_reference_in_the_description_has_its_target() {
        let text = serde_json::to_string(&described().1).unwrap();
        let description: serde_json::Value = serde_json::from_str(&text).unwrap();
        for part in text.split("\"$ref\":\"#").skip(1) {
            let target = part.split('"').next().unwrap();
            assert!(description.pointer(target).is_some(), "{target} is missing");
        }
        assert!(text.contains("#/components/schemas/ErrorBody"));
    }
}
