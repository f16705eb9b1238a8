//! The file of a store: made, rehearsed and opened.

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend,
    backends::InMemoryBackend,
};

use super::{META, META_SCHEMA, RECORDS, SCHEMA, decode, in_use};
use crate::{
    error::{Error, Result},
    failpoint::failpoint,
};

/// Opens a file that has been rehearsed.
pub(super) fn open(path: &Path) -> Result<Database> {
    Database::open(path).map_err(|e| match e {
        DatabaseError::DatabaseAlreadyOpen => in_use(path.parent().unwrap_or(path)),
        other => unreadable(path, &other),
    })
}

/// Makes an empty store; under its own name only once it is complete.
pub(super) fn create(path: &Path, dir: &File) -> Result<()> {
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
pub(super) fn rehearse(path: &Path, bytes: &[u8]) -> Result<()> {
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

/// Why a store cannot be used, and the way out.
pub(super) fn unreadable(path: &Path, cause: &dyn std::fmt::Display) -> Error {
    Error::failed(format!(
        "cannot read {}: {cause}; put a backup of it there, or move it away to begin with no parents, networks and children",
        path.display()
    ))
}
