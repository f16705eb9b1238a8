//! The desired state: what users asked for, as JSON values under keys.
//!
//! Every change names the revision that it replaces, so that two writers never undo each other
//! and the same keys can be kept in etcd. `parents/IFACE`, `networks/NAME`, `children/NAME`,
//! `released/NETWORK/IP`, `docker/networks/ID`, `docker/pools/ID`, and `declared/` before the key of a
//! parent or network are the keys.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use self::file::{create, open, rehearse, unreadable};
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
pub(crate) struct RedbStore {
    /// Absent after a failure to write, until it is opened again.
    database: Mutex<Option<Arc<Database>>>,
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
        let database = open(&path)?;
        Ok(Self { database: Mutex::new(Some(Arc::new(database))), path, _lock: lock })
    }

    /// The database. After an error of the disk the library wants it opened again, and what the
    /// file says then is what counts.
    fn database(&self) -> Result<Arc<Database>> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*database {
            return Ok(Arc::clone(open));
        }
        let bytes = fs::read(&self.path).map_err(|e| unreadable(&self.path, &e))?;
        rehearse(&self.path, &bytes)?;
        let opened = Arc::new(open(&self.path)?);
        *database = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// Closes the database, to be opened again with the next look at it.
    fn close(&self) {
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn broken(&self, e: &redb::Error) -> Error {
        unreadable(&self.path, e)
    }

    /// After a failure: the revision of what was to be written, if it was written all the same. All
    /// of it was, or nothing.
    fn look_again(&self, rows: &[Row]) -> Option<u64> {
        let read = |row: &Row| -> Result<_, redb::Error> {
            let database = self.database().map_err(|e| redb::Error::Corrupted(e.message))?;
            let table = database.begin_read()?.open_table(RECORDS)?;
            Ok(table.get(&*row.key)?.map(|entry| (entry.value().0, entry.value().1.to_vec())))
        };
        let written = |row: &Row| match (read(row).ok()?, &row.bytes) {
            (Some((revision, bytes)), Some(wanted)) => {
                (bytes == *wanted && Some(revision) != row.expected).then_some(revision)
            }
            (None, None) => row.expected,
            _ => None,
        };
        let revisions: Option<Vec<u64>> = rows.iter().map(written).collect();
        revisions?.into_iter().max()
    }
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
        let database = self.database()?;
        let read = || -> Result<_, redb::Error> {
            let table = database.begin_read()?.open_table(RECORDS)?;
            table.get(key)?.map(|entry| decode(key, entry.value())).transpose()
        };
        read().map_err(|e| self.broken(&e))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        let database = self.database()?;
        let read = || -> Result<_, redb::Error> {
            let table = database.begin_read()?.open_table(RECORDS)?;
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

    async fn change(&self, changes: Vec<Change>) -> Result<u64> {
        let database = self.database()?;
        let rows: Arc<[Row]> = changes.into_iter().map(Row::from).collect();
        let written = Arc::clone(&rows);
        // A durable commit waits for the disk.
        let done = tokio::task::spawn_blocking(move || swap(&database, &written))
            .await
            .map_err(|e| Error::failed(format!("cannot write {}: {e}", named(&rows))))?;
        match done {
            Ok(Ok(revision)) => {
                failpoint!("store.written");
                Ok(revision)
            }
            Ok(Err(mismatch)) => Err(mismatch),
            Err(e) => {
                self.close();
                self.look_again(&rows).ok_or_else(|| {
                    Error::failed(format!(
                        "cannot write {} to {}: {e}; see that the disk has room and is not read-only",
                        named(&rows),
                        self.path.display()
                    ))
                })
            }
        }
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

mod file;
#[cfg(test)]
mod power;
#[cfg(test)]
mod tests;
