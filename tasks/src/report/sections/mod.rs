//! The chapters of the report, in the order in which they are read.
//!
//! Each file builds one [`Section`] from the material, and says why when it has nothing to show.

mod accuracy;
mod data;
mod decision;
mod drivers;
mod errors;
mod forecasts;
mod lineage;
mod summary;
mod training;

use crate::report::material::Material;
use crate::report::page::Page;

/// The whole page.
pub(super) fn page(material: &Material) -> Page {
    Page {
        title: material.run.title.clone(),
        facts: summary::facts(material),
        verdict: summary::verdict(material),
        cards: summary::cards(material),
        gaps: material.gaps.clone(),
        sections: vec![
            summary::section(material),
            decision::section(material),
            forecasts::section(material),
            accuracy::section(material),
            drivers::section(material),
            training::section(material),
            data::section(material),
            lineage::section(material),
        ],
    }
}
