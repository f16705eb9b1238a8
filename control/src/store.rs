//! The desired state: what users asked for, as JSON values under keys.
//!
//! Every change names the revision that it replaces, so that two writers never undo each other
//! and the same keys can be kept in etcd. `parents/IFACE`, `networks/NAME`, `children/NAME`,
//! `released/NETWORK/IP`, `docker/networks/ID`, `docker/pools/ID`, and `declared/` before the key of a
//! parent or network are the keys.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redb::{Database, Durability, ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use self::{disk::Disk, file::unreadable, records::Records};
use crate::error::{Error, Result};

/// Before a parent's interface name.
pub(crate) const PARENTS: &str = "parents/";
/// Before a network's name.
pub(crate) const NETWORKS: &str = "networks/";
/// Before a child's name.
pub(crate) const CHILDREN: &str = "children/";
/// Before a network's name, `/` and an address that one of its children had.
pub(crate) const RELEASED: &str = "released/";
/// Before the ID that Docker has given to a network.
pub(crate) const DOCKER_NETWORKS: &str = "docker/networks/";
/// Before the ID of a pool that Docker was given.
pub(crate) const DOCKER_POOLS: &str = "docker/pools/";
/// Before the key of a parent or network that the configuration file has made.
pub(crate) const DECLARED: &str = "declared/";

/// The file in the state directory.
pub(crate) const FILE: &str = "maclane.redb";

/// The layout of the file, and of a backup: raised when an older maclane could no longer read it.
pub(crate) const SCHEMA: u64 = 1;

/// The values, each as JSON after the revision that wrote it.
const RECORDS: TableDefinition<&str, (u64, &[u8])> = TableDefinition::new("records");

/// Numbers about the file itself.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const META_SCHEMA: &str = "schema";
const META_REVISION: &str = "revision";

/// A value and the revision that wrote it. No two changes have the same revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Versioned<T = Value> {
    /// What was written.
    pub(crate) value: T,
    /// What to expect when it is replaced or deleted.
    pub(crate) revision: u64,
}

/// What becomes of one key.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The key.
    pub(crate) key: String,
    /// What is put there; absent: it is deleted.
    pub(crate) value: Option<Value>,
    /// The revision that is replaced; absent: there must be nothing.
    pub(crate) expected: Option<u64>,
}

impl Change {
    /// Puts a `T`.
    pub(crate) fn put(key: &str, value: &impl Serialize, expected: Option<u64>) -> Result<Self> {
        let value = serde_json::to_value(value)
            .map_err(|e| Error::failed(format!("cannot write {key} as JSON: {e}")))?;
        Ok(Self { key: key.to_owned(), value: Some(value), expected })
    }

    /// Deletes what has this revision.
    pub(crate) fn delete(key: &str, expected: u64) -> Self {
        Self { key: key.to_owned(), value: None, expected: Some(expected) }
    }
}

/// Compare-and-set on keys.
#[allow(dead_code, reason = "a contract for more than one kind of store is wider than one caller")]
pub(crate) trait Store: Send + Sync {
    /// Where the values are, for messages.
    fn place(&self) -> String;

    /// The value under `key`.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Versioned>>> + Send;

    /// All values whose key begins with `prefix`, by key.
    fn list(&self, prefix: &str) -> impl Future<Output = Result<Vec<(String, Versioned)>>> + Send;

    /// Makes all of these changes in one step, each at a key of its own; their new revision. If one
    /// of the revisions is not what is expected, it is a `Conflict`, and none of them is made.
    fn change(&self, changes: Vec<Change>) -> impl Future<Output = Result<u64>> + Send;

    /// Writes `value` if the revision under `key` is `expected`, where `None` means that there
    /// must be nothing; the new revision. Anything else there is a `Conflict`.
    fn put_if(
        &self,
        key: &str,
        value: Value,
        expected: Option<u64>,
    ) -> impl Future<Output = Result<u64>> + Send {
        self.change(vec![Change { key: key.to_owned(), value: Some(value), expected }])
    }

    /// Deletes `key` if its revision is `expected`; anything else there is a `Conflict`.
    fn delete_if(&self, key: &str, expected: u64) -> impl Future<Output = Result<()>> + Send {
        async move { self.change(vec![Change::delete(key, expected)]).await.map(drop) }
    }

    /// [`Store::get`] as a `T`.
    fn get_as<T: DeserializeOwned + Send>(
        &self,
        key: &str,
    ) -> impl Future<Output = Result<Option<Versioned<T>>>> + Send {
        async move { self.get(key).await?.map(|found| typed(self, key, found)).transpose() }
    }

    /// [`Store::list`] as `T`s, each with its key less the prefix.
    fn list_as<T: DeserializeOwned + Send>(
        &self,
        prefix: &str,
    ) -> impl Future<Output = Result<Vec<(String, Versioned<T>)>>> + Send {
        async move {
            let found = self.list(prefix).await?;
            found
                .into_iter()
                .map(|(key, value)| Ok((key[prefix.len()..].to_owned(), typed(self, &key, value)?)))
                .collect()
        }
    }

    /// [`Store::put_if`] of a `T`.
    fn put_as<T: Serialize + Sync>(
        &self,
        key: &str,
        value: &T,
        expected: Option<u64>,
    ) -> impl Future<Output = Result<u64>> + Send {
        async move { self.change(vec![Change::put(key, value, expected)?]).await }
    }
}

fn typed<T: DeserializeOwned>(
    store: &(impl Store + ?Sized),
    key: &str,
    Versioned { value, revision }: Versioned,
) -> Result<Versioned<T>> {
    let value = serde_json::from_value(value).map_err(|e| {
        Error::failed(format!(
            "cannot understand {key} in {}: {e}; it was written by another version of maclane",
            store.place()
        ))
    })?;
    Ok(Versioned { value, revision })
}

/// A store in one file of the state directory, for one daemon at a time.
///
/// All of it is in memory as well. A file that another program removes, replaces or changes is written
/// anew from there, and nothing is acknowledged before it is in the file that is at the path.
pub(crate) struct RedbStore {
    held: Arc<Mutex<Held>>,
    path: PathBuf,
}

/// The file, and what is in it.
struct Held {
    disk: Disk,
    records: Records,
}

impl RedbStore {
    /// Opens the store in `dir`, which is made if it is not there. A file that cannot be read is
    /// left as it is.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let (disk, records) = Disk::open(dir)?;
        Ok(Self { held: Arc::new(Mutex::new(Held { disk, records })), path: dir.join(FILE) })
    }

    /// Sees to it that the file is there and the one that was written last; returns what users have to
    /// know of it.
    pub(crate) async fn look(&self) -> Vec<String> {
        let look = |held: &mut Held| {
            // What is wrong is among the problems.
            let _ = held.disk.look(&held.records);
            held.disk.problems()
        };
        self.on_disk(look).await.unwrap_or_else(|e| vec![e.message])
    }

    /// Runs what waits for the disk beside everything else.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Held) -> T + Send + 'static,
    ) -> Result<T> {
        let held = Arc::clone(&self.held);
        tokio::task::spawn_blocking(move || work(&mut locked(&held)))
            .await
            .map_err(|e| Error::failed(format!("cannot use {}: {e}", self.place())))
    }
}

fn locked(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A change, as it is written.
#[derive(Debug)]
struct Row {
    key: String,
    bytes: Option<Vec<u8>>,
    expected: Option<u64>,
}

impl From<Change> for Row {
    fn from(Change { key, value, expected }: Change) -> Self {
        Self { key, bytes: value.map(|value| value.to_string().into_bytes()), expected }
    }
}

/// The changes, for messages.
fn named(rows: &[Row]) -> String {
    match rows {
        [] => "nothing".into(),
        [row] => row.key.clone(),
        [row, more @ ..] => format!("{} and {} more", row.key, more.len()),
    }
}

impl Store for RedbStore {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        locked(&self.held).records.get(key).map_err(|e| unreadable(&self.path, &e))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        locked(&self.held).records.list(prefix).map_err(|e| unreadable(&self.path, &e))
    }

    async fn change(&self, changes: Vec<Change>) -> Result<u64> {
        let rows: Vec<Row> = changes.into_iter().map(Row::from).collect();
        // A durable commit waits for the disk.
        self.on_disk(move |Held { disk, records }| disk.change(records, &rows)).await?
    }
}

/// One transaction, and one revision for all that it changes; the inner error is the conflict.
fn swap(database: &Database, rows: &[Row]) -> Result<Result<u64>, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    let revision = {
        let mut records = transaction.open_table(RECORDS)?;
        let mut meta = transaction.open_table(META)?;
        let revision = meta.get(META_REVISION)?.map_or(0, |last| last.value()) + 1;
        meta.insert(META_REVISION, revision)?;
        for Row { key, bytes, expected } in rows {
            let found = records.get(&**key)?.map(|entry| entry.value().0);
            if found != *expected {
                return Ok(Err(mismatch(key, *expected, found)));
            }
            match bytes {
                Some(bytes) => records.insert(&**key, (revision, &**bytes))?,
                None => records.remove(&**key)?,
            };
        }
        revision
    };
    transaction.commit()?;
    Ok(Ok(revision))
}

fn decode(key: &str, (revision, bytes): (u64, &[u8])) -> Result<Versioned, redb::Error> {
    let value = serde_json::from_slice(bytes)
        .map_err(|e| redb::Error::Corrupted(format!("{key} is not JSON: {e}")))?;
    Ok(Versioned { value, revision })
}

fn in_use(dir: &Path) -> Error {
    Error::conflict(format!(
        "another maclane daemon uses this state directory ({}); stop it or give this one another --state-dir",
        dir.display()
    ))
}

fn mismatch(key: &str, expected: Option<u64>, found: Option<u64>) -> Error {
    Error::conflict(match (expected, found) {
        (None, _) => format!("{key} exists already"),
        (Some(_), None) => format!("{key} was removed meanwhile"),
        (Some(_), Some(_)) => format!("{key} was changed meanwhile; look at it and try again"),
    })
}

mod disk;
mod file;
#[cfg(test)]
mod lost;
#[cfg(test)]
mod power;
mod records;
mod sealed;
#[cfg(test)]
mod tests;
