//! The desired state: what users asked for, as JSON values under keys.
//!
//! Every change names the revision that it replaces, so that two writers never undo each other
//! and the same keys can be kept in etcd. `parents/IFACE`, `networks/NAME` and `children/NAME`
//! are the keys.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, backends::InMemoryBackend,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    error::{Context, Error, Result},
    failpoint::failpoint,
};

/// Before a parent's interface name.
pub(crate) const PARENTS: &str = "parents/";
/// Before a network's name.
pub(crate) const NETWORKS: &str = "networks/";
/// Before a child's name.
pub(crate) const CHILDREN: &str = "children/";

/// The file in the state directory.
const FILE: &str = "maclane.redb";

/// The layout of the file: raised when an older maclane could no longer read it.
const SCHEMA: u64 = 1;

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

/// Compare-and-set on keys.
#[allow(dead_code, reason = "a contract for more than one kind of store is wider than one caller")]
pub(crate) trait Store: Send + Sync {
    /// Where the values are, for messages.
    fn place(&self) -> String;

    /// The value under `key`.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Versioned>>> + Send;

    /// All values whose key begins with `prefix`, by key.
    fn list(&self, prefix: &str) -> impl Future<Output = Result<Vec<(String, Versioned)>>> + Send;

    /// Writes `value` if the revision under `key` is `expected`, where `None` means that there
    /// must be nothing; the new revision. Anything else there is a `Conflict`.
    fn put_if(
        &self,
        key: &str,
        value: Value,
        expected: Option<u64>,
    ) -> impl Future<Output = Result<u64>> + Send;

    /// Deletes `key` if its revision is `expected`; anything else there is a `Conflict`.
    fn delete_if(&self, key: &str, expected: u64) -> impl Future<Output = Result<()>> + Send;

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
        async move {
            let value = serde_json::to_value(value)
                .map_err(|e| Error::failed(format!("cannot write {key} as JSON: {e}")))?;
            self.put_if(key, value, expected).await
        }
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
pub(crate) struct RedbStore {
    database: Arc<Database>,
    path: PathBuf,
    /// Held on the directory for as long as the file is open.
    _lock: File,
}

impl RedbStore {
    /// Opens the store in `dir`, which is made if it is not there. A file that cannot be read is
    /// left as it is.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let doing = || format!("cannot use state directory {}", dir.display());
        DirBuilder::new().recursive(true).mode(0o700).create(dir).doing(doing)?;
        let lock = File::open(dir).doing(doing)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(dir)),
            Err(TryLockError::Error(e)) => return Err(Error::from(e).context(doing())),
        }
        let path = dir.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => rehearse(&path, &bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => create(&path, &lock)
                .map_err(|e| e.context(format!("cannot create {}", path.display())))?,
            Err(e) => return Err(unreadable(&path, &e)),
        }
        let database = Database::open(&path).map_err(|e| match e {
            DatabaseError::DatabaseAlreadyOpen => in_use(dir),
            other => unreadable(&path, &other),
        })?;
        Ok(Self { database: Arc::new(database), path, _lock: lock })
    }

    fn broken(&self, e: &redb::Error) -> Error {
        unreadable(&self.path, e)
    }

    /// Puts `value` under `key`, or deletes it, if its revision is `expected`.
    async fn change(&self, key: &str, value: Option<Value>, expected: Option<u64>) -> Result<u64> {
        let (database, owned) = (Arc::clone(&self.database), key.to_owned());
        let bytes = value.map(|v| v.to_string().into_bytes());
        // A durable commit waits for the disk.
        let changed = tokio::task::spawn_blocking(move || {
            swap(&database, &owned, bytes.as_deref(), expected)
        })
        .await
        .map_err(|e| Error::failed(format!("cannot write {key}: {e}")))?;
        match changed {
            Ok(Ok(revision)) => {
                failpoint!("store.written");
                Ok(revision)
            }
            Ok(Err(found)) => Err(mismatch(key, expected, found)),
            Err(e) => Err(Error::failed(format!(
                "cannot write {key} to {}: {e}; see that the disk has room and is not read-only",
                self.path.display()
            ))),
        }
    }
}

impl Store for RedbStore {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(RECORDS)?;
            table.get(key)?.map(|entry| decode(key, entry.value())).transpose()
        };
        read().map_err(|e| self.broken(&e))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(RECORDS)?;
            let mut found = Vec::new();
            for entry in table.range(prefix..)? {
                let (key, value) = entry?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                found.push((key.value().to_owned(), decode(key.value(), value.value())?));
            }
            Ok(found)
        };
        read().map_err(|e| self.broken(&e))
    }

    async fn put_if(&self, key: &str, value: Value, expected: Option<u64>) -> Result<u64> {
        self.change(key, Some(value), expected).await
    }

    async fn delete_if(&self, key: &str, expected: u64) -> Result<()> {
        self.change(key, None, Some(expected)).await.map(drop)
    }
}

/// One transaction; the inner error is the revision that was found instead of `expected`.
fn swap(
    database: &Database,
    key: &str,
    value: Option<&[u8]>,
    expected: Option<u64>,
) -> Result<Result<u64, Option<u64>>, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    let revision = {
        let mut records = transaction.open_table(RECORDS)?;
        let found = records.get(key)?.map(|entry| entry.value().0);
        if found != expected {
            return Ok(Err(found));
        }
        let mut meta = transaction.open_table(META)?;
        let revision = meta.get(META_REVISION)?.map_or(0, |last| last.value()) + 1;
        meta.insert(META_REVISION, revision)?;
        match value {
            Some(bytes) => records.insert(key, (revision, bytes))?,
            None => records.remove(key)?,
        };
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

/// Makes an empty store; under its own name only once it is complete.
fn create(path: &Path, dir: &File) -> Result<()> {
    let begun = path.with_extension("redb.new");
    match fs::remove_file(&begun) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let fill = || -> Result<(), redb::Error> {
        let database = Database::create(&begun)?;
        let transaction = database.begin_write()?;
        transaction.open_table(RECORDS)?;
        transaction.open_table(META)?.insert(META_SCHEMA, SCHEMA)?;
        transaction.commit()?;
        Ok(())
    };
    fill().map_err(|e| Error::failed(e.to_string()))?;
    failpoint!("store.created");
    fs::rename(&begun, path)?;
    dir.sync_all()?;
    Ok(())
}

/// Opens a copy in memory, reads all of it and writes to it, so that whatever the library does to
/// a damaged file (repair, roll back, panic) does not happen to the file itself.
fn rehearse(path: &Path, bytes: &[u8]) -> Result<()> {
    let schema = catch_unwind(AssertUnwindSafe(|| read_all(bytes)))
        .map_err(|_| unreadable(path, &"it is damaged"))?
        .map_err(|e| unreadable(path, &e))?;
    match schema {
        Some(SCHEMA) => Ok(()),
        Some(newer) if newer > SCHEMA => Err(Error::failed(format!(
            "cannot read {}: it has schema {newer} and this maclane knows {SCHEMA}; use the newer maclane that wrote it",
            path.display()
        ))),
        Some(other) => Err(unreadable(path, &format!("it has schema {other}, which never was"))),
        None => Err(unreadable(path, &"it is not a store of maclane")),
    }
}

/// The schema in a store's bytes, once everything in it has proved readable.
fn read_all(bytes: &[u8]) -> Result<Option<u64>, redb::Error> {
    if bytes.is_empty() {
        return Err(redb::Error::Corrupted("it is empty".into()));
    }
    let copy = InMemoryBackend::new();
    copy.set_len(bytes.len() as u64)?;
    copy.write(0, bytes)?;
    let mut database = Database::builder().create_with_backend(copy)?;
    if !database.check_integrity()? {
        return Err(redb::Error::Corrupted("a checksum is wrong".into()));
    }
    let transaction = database.begin_read()?;
    let schema = match transaction.open_table(META) {
        Ok(meta) => meta.get(META_SCHEMA)?.map(|schema| schema.value()),
        Err(redb::TableError::TableDoesNotExist(_)) => None,
        Err(e) => return Err(e.into()),
    };
    if schema == Some(SCHEMA) {
        for entry in transaction.open_table(RECORDS)?.iter()? {
            let (key, value) = entry?;
            decode(key.value(), value.value())?;
        }
    }
    Ok(schema)
}

fn unreadable(path: &Path, cause: &dyn std::fmt::Display) -> Error {
    Error::failed(format!(
        "cannot read {}: {cause}; put a backup of it there, or move it away to begin with no parents, networks and children",
        path.display()
    ))
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

#[cfg(test)]
mod tests;
