//! The champion's figures at this run's origins: by its recipe, never by its bytes.
//!
//! `evaluate` calls [`compare`]. A stored champion was fitted on all data of its day, so it has seen
//! windows on which it would be judged. Whatever keeps its recipe from being judged is written into
//! the comparison, where the gate finds it and refuses.

use engine::id::Digest;
use engine::registry::{ModelVersion, RegistryError};
use engine::task::TaskError;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::evaluate::backtest::Backtests;
use crate::evaluate::document::{ChampionComparison, ComparedBy, MetricRow};
use crate::evaluate::judge::Judge;
use crate::features::FeatureFrame;
use crate::model::{Origin, Recipe, backtest_recipe};

/// What a refit needs.
pub(crate) struct Bout<'a> {
    /// The rows that all models were judged on.
    pub(crate) backtests: &'a Backtests,
    /// Who judges.
    pub(crate) judge: &'a Judge<'a>,
    /// Figures of this run's models.
    pub(crate) metrics: &'a [MetricRow],
    /// This run's models and the digests of their recipes.
    pub(crate) recipes: &'a [(String, Digest)],
    /// What models are fitted on.
    pub(crate) features: &'a FeatureFrame,
    /// Of the task instance.
    pub(crate) seed: u64,
    /// Fires when the attempt has to stop.
    pub(crate) cancel: &'a CancellationToken,
}

/// Judges the champion as the registry named it; blocks while it refits.
///
/// # Errors
/// [`TaskError::Canceled`] alone: what else goes wrong is recorded in the comparison.
pub(crate) fn compare(
    name: &str,
    read: &Result<Option<ModelVersion>, RegistryError>,
    bout: &Bout<'_>,
) -> Result<ChampionComparison, TaskError> {
    let version = match read {
        Ok(Some(version)) => version,
        Ok(None) => return Ok(ChampionComparison::absent(name)),
        Err(error) => return Ok(ChampionComparison::unreadable(name, error_chain(error))),
    };
    let mut compared =
        ChampionComparison { present: Some(true), version: Some(version.version), ..ChampionComparison::absent(name) };
    match figures(version, bout, &mut compared) {
        Ok(()) => {}
        Err(Missing::Because(why)) => compared.missing = Some(why),
        Err(Missing::Canceled) => return Err(TaskError::Canceled),
    }
    Ok(compared)
}

/// Why there are no figures.
enum Missing {
    Because(String),
    Canceled,
}

impl From<TaskError> for Missing {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::Canceled => Self::Canceled,
            error => Self::Because(error_chain(&error)),
        }
    }
}

fn figures(version: &ModelVersion, bout: &Bout<'_>, compared: &mut ChampionComparison) -> Result<(), Missing> {
    let stored = version.metadata.get("recipe").cloned().unwrap_or(Value::Null);
    let recipe: Recipe = serde_json::from_value(stored).map_err(|error| {
        Missing::Because(format!("version {} has no recipe that can be read: {error}", version.version))
    })?;
    // Digested anew: an option that was added since then has its default in both.
    let digest = recipe.digest()?;
    compared.model = Some(recipe.spec.kind().as_str().to_owned());
    compared.recipe_digest = Some(digest);
    if let Some((model, _)) = bout.recipes.iter().find(|(_, other)| *other == digest) {
        compared.metrics = bout.metrics.iter().filter(|row| row.model == *model).cloned().collect();
        compared.how = Some(ComparedBy::SameRecipe);
        return Ok(());
    }
    let origins: Vec<Origin> = bout.backtests.origins().into_iter().map(Origin::from_days).collect();
    let refit = backtest_recipe(&recipe, bout.features, &origins, bout.seed, bout.cancel)?;
    let (model, points) =
        bout.backtests.points_like(&[refit]).map_err(|error| Missing::Because(error_chain(&error)))?;
    compared.metrics = bout.judge.rows_of(&model, &points);
    compared.how = Some(ComparedBy::Refitted);
    Ok(())
}

/// An error and what lies beneath, in one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
