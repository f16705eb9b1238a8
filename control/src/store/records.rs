//! What the store holds, in memory: the file is written anew from it.

use std::collections::BTreeMap;

use redb::{Database, ReadableDatabase, ReadableTable};

use super::{
    META, META_REVISION, META_SCHEMA, RECORDS, Row, SCHEMA, Versioned, decode, file::Place,
    mismatch,
};
use crate::error::Error;

/// In `META`: which file a store takes the place of.
const META_REPLACED_INODE: &str = "replaced_inode";
const META_REPLACED_MODIFIED: &str = "replaced_modified";

/// Every record with the revision that wrote it, as the file has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    /// The last revision that was given out.
    revision: u64,
    rows: BTreeMap<String, (u64, Vec<u8>)>,
}

impl Records {
    /// Reads all of a database of this schema.
    pub(super) fn read(database: &Database) -> Result<Self, redb::Error> {
        let transaction = database.begin_read()?;
        let meta = transaction.open_table(META)?;
        let revision = meta.get(META_REVISION)?.map_or(0, |revision| revision.value());
        let mut rows = BTreeMap::new();
        for entry in transaction.open_table(RECORDS)?.iter()? {
            let (key, value) = entry?;
            decode(key.value(), value.value())?;
            let (revision, bytes) = value.value();
            rows.insert(key.value().to_owned(), (revision, bytes.to_vec()));
        }
        Ok(Self { revision, rows })
    }

    /// Fills an empty database. `replaces` is the file that it takes the place of.
    pub(super) fn write(
        &self,
        database: &Database,
        replaces: Option<&Place>,
    ) -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(META_SCHEMA, SCHEMA)?;
            meta.insert(META_REVISION, self.revision)?;
            if let Some(place) = replaces {
                meta.insert(META_REPLACED_INODE, place.inode)?;
                meta.insert(META_REPLACED_MODIFIED, place.modified)?;
            }
            let mut records = transaction.open_table(RECORDS)?;
            for (key, (revision, bytes)) in &self.rows {
                records.insert(&**key, (*revision, &**bytes))?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// The value under a key.
    pub(super) fn get(&self, key: &str) -> Result<Option<Versioned>, redb::Error> {
        self.rows.get(key).map(|(revision, bytes)| decode(key, (*revision, bytes))).transpose()
    }

    /// The values whose key begins with `prefix`, by key.
    pub(super) fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>, redb::Error> {
        let from = self.rows.range(prefix.to_owned()..);
        let found = from.take_while(|(key, _)| key.starts_with(prefix));
        found
            .map(|(key, (revision, bytes))| Ok((key.clone(), decode(key, (*revision, bytes))?)))
            .collect()
    }

    /// Why changes cannot be made: the first one that expects another revision.
    pub(super) fn conflict(&self, rows: &[Row]) -> Option<Error> {
        rows.iter().find_map(|Row { key, expected, .. }| {
            let found = self.rows.get(key).map(|(revision, _)| *revision);
            (found != *expected).then(|| mismatch(key, *expected, found))
        })
    }

    /// The revision that the next change gets.
    pub(super) fn next_revision(&self) -> u64 {
        self.revision + 1
    }

    /// Makes changes, which get this revision.
    pub(super) fn apply(&mut self, rows: &[Row], revision: u64) {
        self.revision = revision;
        for Row { key, bytes, .. } in rows {
            match bytes {
                Some(bytes) => self.rows.insert(key.clone(), (revision, bytes.clone())),
                None => self.rows.remove(key),
            };
        }
    }
}

/// The file that a store was written to take the place of; `None` if there was none.
pub(super) fn replaced(database: &Database) -> Result<Option<Place>, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    let number = |key| Ok::<_, redb::Error>(meta.get(key)?.map(|number| number.value()));
    Ok(match (number(META_REPLACED_INODE)?, number(META_REPLACED_MODIFIED)?) {
        (Some(inode), Some(modified)) => Some(Place { inode, modified }),
        _ => None,
    })
}
