//! Ways in for the fuzz targets (`tests/fuzz`): what others than maclane write, byte by byte.

use std::{
    cell::RefCell,
    fs, panic,
    sync::{Once, OnceLock},
};

use axum::{Json, Router, body::Bytes, routing::post};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    runtime::{Builder, Runtime},
};

use crate::{
    api,
    backup::Backup,
    check::Check,
    error::Result,
    model::{ChildSpec, NetworkSpec, ParentSpec},
    store::{self, RedbStore, Store, Versioned},
};

thread_local! {
    static RUNTIME: Runtime =
        Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    static DIR: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
}

/// A connection on which these bytes come in, to handlers that accept every specification which
/// passes the checks. What is accepted has to come out as it went in, and pass them again.
pub fn api(bytes: &[u8]) {
    RUNTIME.with(|runtime| runtime.block_on(connection(bytes)));
}

async fn connection(bytes: &[u8]) {
    let router = api::harden(
        Router::new()
            .route("/v1/parents", post(accept::<ParentSpec>))
            .route("/v1/networks", post(accept::<NetworkSpec>))
            .route("/v1/children", post(accept::<ChildSpec>))
            .route("/v1/import", post(accept_backup)),
    );
    let (mut client, server) = duplex(1 << 16);
    let serve = http1::Builder::new()
        .serve_connection(TokioIo::new(server), TowerToHyperService::new(router));
    let talk = async {
        let _ = client.write_all(bytes).await;
        let _ = client.shutdown().await;
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.contains("the daemon has a bug here"), "a handler panics: {text}");
    };
    let (_, ()) = tokio::join!(serve, talk);
}

async fn accept<T>(spec: api::SpecOfBody<T>) -> Json<Value>
where
    T: Check + serde::Serialize + serde::de::DeserializeOwned,
{
    let out = serde_json::to_value(&spec.0).expect("a specification is JSON");
    let again: T = serde_json::from_value(out.clone()).expect("it is read as it was written");
    again.check().expect("it passes its checks again");
    assert_eq!(serde_json::to_value(&again).expect("JSON"), out, "nothing is lost on the way");
    Json(out)
}

async fn accept_backup(body: Bytes) -> Result<Json<Backup>> {
    let backup = Backup::parse(&body)?;
    let out = serde_json::to_vec(&backup).expect("a backup is JSON");
    let again = Backup::parse(&out).expect("it is read as it was written");
    assert_eq!(again, backup, "nothing is lost on the way");
    Ok(Json(backup))
}

/// A state directory whose store is these bytes, or a real store with some of its bytes changed
/// by them: it is refused and left as it is, or everything that was in it can be read.
pub fn store(bytes: &[u8]) {
    static QUIET: Once = Once::new();
    static REAL: OnceLock<(Vec<u8>, Records)> = OnceLock::new();
    // The store's library panics where a file is damaged, and the store catches that.
    QUIET.call_once(|| panic::set_hook(Box::new(|_| ())));
    let (real, records) = REAL.get_or_init(real_store);
    match bytes.split_first() {
        Some((0, edits)) => {
            let mut file = real.clone();
            for edit in edits.chunks_exact(5) {
                let place = u32::from_le_bytes([edit[0], edit[1], edit[2], edit[3]]) as usize;
                let place = place % file.len();
                file[place] ^= edit[4];
            }
            check(&file, Some(records));
        }
        Some((1, rest)) => {
            let keep = rest.iter().fold(0, |all: usize, b| all << 8 | usize::from(*b)) % real.len();
            check(&real[..keep], Some(records));
        }
        _ => check(bytes, None),
    }
}

type Records = Vec<(String, Versioned)>;

/// A store as a daemon writes it.
fn real_store() -> (Vec<u8>, Records) {
    let dir = tempfile::tempdir().expect("a folder");
    let records = {
        let store = RedbStore::open(dir.path()).expect("a new store");
        RUNTIME.with(|runtime| {
            runtime.block_on(async {
                for number in 0..20 {
                    let value = serde_json::json!({ "name": number, "is": "a child".repeat(9) });
                    let key = format!("children/c{number}");
                    store.put_if(&key, value, None).await.expect("a record");
                }
                store.list("").await.expect("the records")
            })
        })
    };
    (fs::read(dir.path().join(store::FILE)).expect("the store's bytes"), records)
}

fn check(file: &[u8], records: Option<&Records>) {
    DIR.with_borrow_mut(|dir| {
        let dir = dir.get_or_insert_with(|| tempfile::tempdir().expect("a folder"));
        let path = dir.path().join(store::FILE);
        fs::write(&path, file).expect("the store can be written");
        let read = match RedbStore::open(dir.path()) {
            Err(_) => None,
            Ok(store) => RUNTIME.with(|runtime| runtime.block_on(store.list(""))).ok(),
        };
        let wrong = match (&read, records) {
            (None, _) if fs::read(&path).expect("it is still there") != file => {
                "a store that was refused has changed"
            }
            (Some(found), Some(records)) if found != records => "a store has lost something",
            _ => return,
        };
        // Panics are caught here.
        eprintln!("{wrong}");
        std::process::abort();
    });
}
