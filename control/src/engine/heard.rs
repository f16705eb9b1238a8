//! What the programs of a parent tell, until the control loop looks.

use std::collections::BTreeSet;

use dataplane_common::abi::{Claim, Offended};

use crate::{dataplane::Told, model::Mac};

/// How much of each kind is kept: of a storm of made-up addresses not all have to be known.
const MOST: usize = 4096;

/// What was told.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Source MACs that nobody is known by.
    pub(crate) sources: BTreeSet<Mac>,
    /// Who on the wire says to have the address of a child.
    pub(crate) claims: Vec<Claim>,
    /// Who sends what he may not, or more than he may.
    pub(crate) offences: Vec<Offended>,
}

impl Heard {
    /// Keeps what was told; true if the control loop should look at once. Whoever claims or offends
    /// again and again shall not hurry it.
    pub(crate) fn note(&mut self, events: Vec<Told>) -> bool {
        let mut is_new = false;
        if self.sources.len() > MOST {
            self.sources.clear();
        }
        for told in events {
            match told {
                Told::NewSource(event) => {
                    self.sources.insert(Mac(event.mac));
                    is_new = true;
                }
                Told::Claim(claim) if self.claims.len() < MOST => self.claims.push(claim),
                Told::Offence(offence) if self.offences.len() < MOST => self.offences.push(offence),
                Told::Claim(_) | Told::Offence(_) => {}
            }
        }
        is_new
    }
}
