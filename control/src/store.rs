//! The desired state: what users asked for, as JSON values under keys.
//!
//! Every change names the revision that it replaces, so that two writers never undo each other
//! and the same keys can be kept in etcd. `parents/IFACE`, `networks/NAME`, `children/NAME`
//! and `released/NETWORK/IP` are the keys.

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

/// The file in the state directory.
pub(crate) const FILE: &str = "maclane.redb";

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

    /// Puts `value` under `key`, or deletes it, if its revision is `expected`.
    async fn change(&self, key: &str, value: Option<Value>, expected: Option<u64>) -> Result<u64> {
        let (database, owned) = (self.database()?, key.to_owned());
        let bytes = value.map(|v| v.to_string().into_bytes());
        let wanted = bytes.clone();
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
            Err(e) => {
                self.close();
                self.look_again(key, wanted.as_deref(), expected).ok_or_else(|| {
                    Error::failed(format!(
                        "cannot write {key} to {}: {e}; see that the disk has room and is not read-only",
                        self.path.display()
                    ))
                })
            }
        }
    }

    /// After a failure: the revision of what was to be written, if it was written all the same.
    fn look_again(&self, key: &str, wanted: Option<&[u8]>, expected: Option<u64>) -> Option<u64> {
        let read = || -> Result<_, redb::Error> {
            let database = self.database().map_err(|e| redb::Error::Corrupted(e.message))?;
            let table = database.begin_read()?.open_table(RECORDS)?;
            Ok(table.get(key)?.map(|entry| (entry.value().0, entry.value().1.to_vec())))
        };
        match (read().ok()?, wanted) {
            (Some((revision, bytes)), Some(wanted)) => {
                (bytes == wanted && Some(revision) != expected).then_some(revision)
            }
            (None, None) => expected,
            _ => None,
        }
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
