//! The gate document, `dags/gates/<name>.toml`: every threshold, all of them required.
//!
//! Parsed by `promote`; printed into each decision. The reasons for the values are in the file itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::metrics::Figures;

/// The version of gate documents that this code reads.
const FORMAT_VERSION: u32 = 1;

/// Why a gate document can not be used.
#[derive(Debug, thiserror::Error)]
pub enum GateDocumentError {
    /// Not the shape.
    #[error("the gate document is not valid; compare it with dags/gates/demand_default.toml")]
    Shape(#[from] toml::de::Error),
    /// A value that can not be meant.
    #[error("the gate document has {key} = {value}, but it must be {rule}")]
    Range {
        /// Which key.
        key: &'static str,
        /// As given.
        value: f64,
        /// What it must be.
        rule: &'static str,
    },
    /// No figure is required.
    #[error("the gate document requires no figures; list at least \"wape\" and \"bias\" under required_figures")]
    NoFigures,
}

/// A metric that a gate can require.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Weighted absolute percentage error.
    Wape,
    /// Symmetric mean absolute percentage error.
    Smape,
    /// Mean absolute error.
    Mae,
    /// Root mean squared error.
    Rmse,
    /// Mean absolute scaled error.
    Mase,
    /// Signed error per demand.
    Bias,
}

impl Figure {
    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wape => "wape",
            Self::Smape => "smape",
            Self::Mae => "mae",
            Self::Rmse => "rmse",
            Self::Mase => "mase",
            Self::Bias => "bias",
        }
    }

    /// Its value, if it is there and a number that the metric can have.
    pub fn of(self, figures: &Figures) -> Option<f64> {
        let value = match self {
            Self::Wape => figures.wape,
            Self::Smape => figures.smape,
            Self::Mae => figures.mae,
            Self::Rmse => figures.rmse,
            Self::Mase => figures.mase,
            Self::Bias => figures.bias,
        };
        value.filter(|value| value.is_finite() && (*value >= 0.0 || self == Self::Bias))
    }
}

/// What becomes of a candidate with the champion's own recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SameRecipe {
    /// It is refused: it is not better than the champion.
    Keep,
    /// It replaces the champion, if every other rule holds.
    Refresh,
}

/// All thresholds of a gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateThresholds {
    /// 1.
    pub format_version: u32,
    /// Largest pooled WAPE as a share of the champion's.
    pub wape_ratio_vs_champion: f64,
    /// Smallest improvement of pooled WAPE on seasonal naive, as a share of it.
    pub min_improvement_vs_seasonal_naive: f64,
    /// Largest absolute pooled bias.
    pub max_abs_bias: f64,
    /// Largest WAPE of the total as a share of the reference's.
    pub max_total_wape_ratio: f64,
    /// Largest WAPE of any other slice as a share of the reference's.
    pub max_slice_wape_ratio: f64,
    /// Slices with a smaller share of demand are not judged.
    pub min_slice_demand_share: f64,
    /// Fewest origins.
    pub min_origins: u32,
    /// Figures that the candidate must have.
    pub required_figures: Vec<Figure>,
    /// For a candidate with the champion's own recipe.
    pub same_recipe: SameRecipe,
    /// Whether a baseline may be the first champion.
    pub allow_baseline_champion: bool,
}

impl GateThresholds {
    /// Reads a gate document.
    ///
    /// # Errors
    /// If a key is missing, unknown or of another type, or a value lets nothing or anything through.
    pub fn parse(text: &str) -> Result<Self, GateDocumentError> {
        let gate: Self = toml::from_str(text)?;
        let positive = "a finite number above 0";
        gate.check("format_version", f64::from(gate.format_version), "1", |v| v == f64::from(FORMAT_VERSION))?;
        gate.check("min_origins", f64::from(gate.min_origins), "at least 1", |v| v >= 1.0)?;
        gate.check("wape_ratio_vs_champion", gate.wape_ratio_vs_champion, positive, is_positive)?;
        gate.check("max_abs_bias", gate.max_abs_bias, positive, is_positive)?;
        gate.check("max_total_wape_ratio", gate.max_total_wape_ratio, positive, is_positive)?;
        gate.check("max_slice_wape_ratio", gate.max_slice_wape_ratio, positive, is_positive)?;
        let (share, is_share) = ("from 0 to below 1", |v| (0.0..1.0).contains(&v));
        gate.check("min_improvement_vs_seasonal_naive", gate.min_improvement_vs_seasonal_naive, share, is_share)?;
        gate.check("min_slice_demand_share", gate.min_slice_demand_share, share, is_share)?;
        if gate.required_figures.is_empty() { Err(GateDocumentError::NoFigures) } else { Ok(gate) }
    }

    fn check(
        &self,
        key: &'static str,
        value: f64,
        rule: &'static str,
        holds: fn(f64) -> bool,
    ) -> Result<(), GateDocumentError> {
        if holds(value) { Ok(()) } else { Err(GateDocumentError::Range { key, value, rule }) }
    }
}

fn is_positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The gate that ships with the project.
    pub(crate) fn shipped() -> (String, GateThresholds) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../dags/gates/demand_default.toml");
        let text = std::fs::read_to_string(path).expect("the gate document is there");
        let gate = GateThresholds::parse(&text).expect("the gate document is good");
        (text, gate)
    }

    #[test]
    fn every_gate_document_of_the_project_is_good() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../dags/gates");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("readable");
            GateThresholds::parse(&text).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
            seen += 1;
        }
        assert!(seen >= 1);
    }

    #[test]
    fn every_key_is_required_and_no_other_is_known() {
        let (text, _) = shipped();
        let keys: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once(" = "))
            .map(|(k, _)| k)
            .collect();
        assert_eq!(keys.len(), 11);
        for key in keys {
            let prefix = format!("{key} = ");
            let without: Vec<&str> = text.lines().filter(|line| !line.starts_with(&prefix)).collect();
            assert!(GateThresholds::parse(&without.join("\n")).is_err(), "a gate without {key} must not open");
        }
        assert!(GateThresholds::parse(&format!("{text}\nmax_bias = 0.2\n")).is_err());
    }

    #[test]
    fn values_that_can_not_be_meant_are_refused() {
        let (text, _) = shipped();
        for (from, to) in [
            ("wape_ratio_vs_champion = 0.95", "wape_ratio_vs_champion = nan"),
            ("max_abs_bias = 0.10", "max_abs_bias = inf"),
            ("max_abs_bias = 0.10", "max_abs_bias = -0.1"),
            ("min_origins = 3", "min_origins = 0"),
            ("min_improvement_vs_seasonal_naive = 0.05", "min_improvement_vs_seasonal_naive = 1.5"),
            ("format_version = 1", "format_version = 2"),
            ("same_recipe = \"keep\"", "same_recipe = \"maybe\""),
            ("[\"wape\", \"smape\", \"mae\", \"rmse\", \"mase\", \"bias\"]", "[]"),
        ] {
            assert!(text.contains(from), "{from}");
            assert!(GateThresholds::parse(&text.replace(from, to)).is_err(), "{to}");
        }
    }
}
