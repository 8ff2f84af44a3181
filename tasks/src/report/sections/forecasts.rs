//! Forecast against actual: all series together, then a few that show the portfolio.

use std::collections::BTreeSet;

use plotly::layout::AxisType;

use crate::report::backtest::{Backtest, Moment, Total};
use crate::report::figure::{actual_line, axis, layout, marker_line, plot_json, quantity_axis};
use crate::report::material::Material;
use crate::report::number::{count, percent, quantity, signed_percent};
use crate::report::page::{Cell, Figure, Section, Table};
use crate::report::sample::Pick;

const ID: &str = "forecasts";
const TITLE: &str = "Forecast vs actual";

/// The section.
pub(in crate::report) fn section(material: &Material) -> Section {
    let Some(backtest) = &material.backtest else {
        return Section::empty(ID, TITLE, format!("Nothing to draw. {}", material.why_missing("backtest.parquet")));
    };
    if backtest.totals.is_empty() {
        return Section::empty(
            ID,
            TITLE,
            "backtest.parquet has no row with a known actual: there is nothing to compare.",
        );
    }
    let lead = format!(
        "Every forecast here was made with what was known at its origin only: {} windows of {} {}s that lie side by \
         side. A dotted vertical line is an origin, the last {} that the models of that window saw.",
        backtest.origins.len(),
        backtest.horizon,
        material.period(),
        material.period(),
    );
    let mut section = Section::new(ID, TITLE, lead);
    section.figures(vec![total_figure(material, backtest)]);
    let Some(sample) = &material.sample else { return section };
    section.heading(
        format!("{} series, chosen by rule", sample.picks.len()),
        format!(
            "Out of {}: the extremes and the middle by demand, intermittency, error and bias of {}.",
            count(backtest.series.len() as u64),
            material.focus.as_deref().unwrap_or("the first model"),
        ),
    );
    section.figures(
        sample.picks.iter().enumerate().map(|(nth, pick)| series_figure(material, backtest, nth, pick)).collect(),
    );
    section
}

fn total_figure(material: &Material, backtest: &Backtest) -> Figure {
    let times: Vec<(Moment, Moment)> = backtest.totals.keys().copied().collect();
    let total = |key: &(Moment, Moment), model: usize| {
        backtest.totals.get(key).and_then(|totals| totals.get(model).copied().flatten())
    };
    let actual_of = |key: &(Moment, Moment)| {
        backtest.totals.get(key).and_then(|totals| totals.iter().flatten().next().map(|total: &Total| total.actual))
    };
    let windows = windows(&times);
    let x: Vec<String> = windows.iter().map(|&(at, _)| times[at].1.text()).collect();
    let actual: Vec<Option<f64>> = times.iter().map(actual_of).collect();
    let mut traces = vec![actual_line(times.iter().map(|(_, time)| time.text()).collect(), &actual)];
    let mut table = Table::new(
        format!("Total demand and forecasts per {}, units", material.period()),
        &["Date", "Origin", "#Actual"],
    );
    let mut columns: Vec<Vec<Option<f64>>> = Vec::new();
    for (at, model) in backtest.models.iter().enumerate() {
        let points: Vec<Option<f64>> = times.iter().map(|key| total(key, at).map(|total| total.point)).collect();
        if let Some(look) = material.looks.of(model) {
            let broken: Vec<_> = windows.iter().map(|&(at, gap)| points[at].filter(|_| !gap)).collect();
            traces.push(look.line(x.clone(), &broken));
        }
        table.number_column(model.clone());
        columns.push(points);
    }
    for (row, (origin, time)) in times.iter().enumerate() {
        let mut cells = vec![Cell::text(time.text()), Cell::text(origin.text()), Cell::number(quantity(actual[row]))];
        cells.extend(columns.iter().map(|column| Cell::number(quantity(column[row]))));
        table.row(cells);
    }
    let x_axis = axis("Date").type_(AxisType::Date);
    let y_axis = quantity_axis(&format!("Demand, units per {}", material.period()));
    let origins = backtest.origins.iter().map(|origin| marker_line(&origin.text())).collect();
    Figure {
        id: "figure-total".to_owned(),
        title: "All series together".to_owned(),
        note: "Sum over all series whose demand is known on that date.".to_owned(),
        alt: format!(
            "Line chart of total demand per {} against the forecasts of {} over {} windows.",
            material.period(),
            backtest.models.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
            backtest.origins.len()
        ),
        height: 400,
        plot: plot_json(traces, layout(x_axis, y_axis).shapes(origins)),
        table,
    }
}

/// Models that a series is drawn with: the one that the report is about and the baseline.
fn drawn(material: &Material, backtest: &Backtest) -> Vec<usize> {
    let mut models: Vec<usize> = [&material.focus, &material.baseline]
        .into_iter()
        .flatten()
        .filter_map(|name| backtest.models.get_index_of(name))
        .collect();
    models.dedup();
    if models.is_empty() { vec![0] } else { models }
}

fn series_figure(material: &Material, backtest: &Backtest, nth: usize, pick: &Pick) -> Figure {
    let (name, sums) =
        backtest.series.get_index(pick.series).map_or(("", None), |(name, sums)| (name.as_str(), Some(sums)));
    let points = pick.points.keys().map(|(_, time)| *time);
    let times: Vec<Moment> = pick.actual.keys().copied().chain(points).collect::<BTreeSet<_>>().into_iter().collect();
    let x: Vec<String> = times.iter().map(|time| time.text()).collect();
    let actual: Vec<Option<f64>> = times.iter().map(|time| pick.actual.get(time).copied()).collect();
    let mut traces = vec![actual_line(x.clone(), &actual)];
    let mut table = Table::new(format!("Demand and forecasts of series {name}, units"), &["Date", "#Actual"]);
    let mut columns: Vec<Vec<Option<f64>>> = Vec::new();
    for at in drawn(material, backtest) {
        let points: Vec<Option<f64>> = times.iter().map(|time| pick.points.get(&(at, *time)).copied()).collect();
        let model = backtest.models.get_index(at).map_or("", String::as_str);
        if let Some(look) = material.looks.of(model) {
            traces.push(look.line(x.clone(), &points));
        }
        table.number_column(model);
        columns.push(points);
    }
    for (row, time) in x.iter().enumerate() {
        let mut cells = vec![Cell::text(time), Cell::number(quantity(actual[row]))];
        cells.extend(columns.iter().map(|column| Cell::number(quantity(column[row]))));
        table.row(cells);
    }
    let focus = material.focus.as_deref().and_then(|model| backtest.models.get_index_of(model)).unwrap_or(0);
    let figures = sums.and_then(|sums| sums.scores.get(focus)).map(|score| score.figures()).unwrap_or_default();
    let note = format!(
        "{}. WAPE {}, bias {}, mean {} per {}, {} of {}s without demand.",
        pick.why,
        percent(figures.wape),
        signed_percent(figures.bias),
        quantity(sums.map(|sums| sums.mean())),
        material.period(),
        percent(sums.map(|sums| sums.zero_share())),
        material.period()
    );
    let x_axis = axis("Date").type_(AxisType::Date).n_ticks(7);
    let y_axis = quantity_axis("Demand, units");
    let origins = backtest.origins.iter().map(|origin| marker_line(&origin.text())).collect();
    Figure {
        id: format!("figure-series-{}", nth + 1),
        title: format!("Series {name}"),
        alt: format!("Line chart of demand and forecasts of series {name}. {note}"),
        note,
        height: 270,
        plot: plot_json(traces, layout(x_axis, y_axis).shapes(origins)),
        table,
    }
}

/// Positions along the keys, each with whether a gap stands there instead: a line must not join the
/// forecasts of two origins.
fn windows(keys: &[(Moment, Moment)]) -> Vec<(usize, bool)> {
    let mut positions = Vec::with_capacity(keys.len() + 8);
    for at in 0..keys.len() {
        if at > 0 && keys[at - 1].0 != keys[at].0 {
            positions.push((at, true));
        }
        positions.push((at, false));
    }
    positions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_windows() {
        let key = |origin, time| (Moment(origin), Moment(time));
        let keys = [key(0, 1), key(0, 2), key(2, 3)];
        assert_eq!(windows(&keys), [(0, false), (1, false), (2, true), (2, false)]);
        assert_eq!(windows(&[]), []);
    }
}
