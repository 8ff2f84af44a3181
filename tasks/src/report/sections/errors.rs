//! How errors spread: over rows, as shares of what a series sells, and over series.

use plotly::layout::{Axis, AxisType, BarMode, HoverMode};
use serde::Serialize;

use crate::report::backtest::Backtest;
use crate::report::figure::{axis, layout, plot_json};
use crate::report::material::Material;
use crate::report::number::{count, percent};
use crate::report::page::{Cell, Figure, Section, Table};
use crate::report::sample::Spread;

/// Upper edges of the classes of a series' WAPE; the last class is open.
const SERIES_EDGES: [f64; 7] = [0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5];

/// Adds the figures, if there is a backtest.
pub(super) fn add(material: &Material, section: &mut Section) {
    let (Some(backtest), Some(sample)) = (&material.backtest, &material.sample) else { return };
    section.heading(
        "Error distribution",
        "A mean hides its tails. These are the errors of single periods, and the errors of single series.",
    );
    section.figures(vec![by_row(material, backtest, &sample.spread), by_series(material, backtest)]);
}

fn by_row(material: &Material, backtest: &Backtest, spread: &Spread) -> Figure {
    let edge = |share: f64| format!("{}%", trimmed(share * 100.0));
    let names: Vec<String> = spread
        .edges()
        .iter()
        .map(|edges| match edges {
            (Some(low), Some(high)) => format!("{} to {}", edge(*low), edge(*high)),
            (None, high) => format!("below {}", edge(high.unwrap_or_default())),
            (Some(low), None) => format!("above {}", edge(*low)),
        })
        .collect();
    let caption = format!("Share of series-{}s by size of the error", material.period());
    let title = "Errors of single forecasts";
    let figure = Drawn {
        id: "figure-error-rows",
        title,
        note: format!(
            "Forecast minus actual of each series and {}, as a share of the series' mean demand. The outermost bars hold all that lies beyond.",
            material.period()
        ),
        y: format!("Share of series-{}s, %", material.period()),
        first: "Error",
        caption,
    };
    // Bars stand on the middle of their class; the open ones stand one class beyond.
    let middle = |nth: usize| {
        spread.edges()[nth].0.map_or_else(
            || spread.edges()[nth].1.unwrap_or_default() - spread.width / 2.0,
            |low| low + spread.width / 2.0,
        )
    };
    let middles: Vec<f64> = (0..names.len()).map(middle).collect();
    let x = axis("Error, % of the series' mean demand").tick_format("+,.0%").zero_line(true);
    shares(material, backtest, &figure, (&names, middles, x), &spread.rows)
}

fn by_series(material: &Material, backtest: &Backtest) -> Figure {
    let mut names: Vec<String> = Vec::new();
    let mut low = 0.0;
    for high in SERIES_EDGES {
        names.push(format!("{}\u{2013}{}", trimmed(low * 100.0), trimmed(high * 100.0)));
        low = high;
    }
    names.push(format!("over {}", trimmed(low * 100.0)));
    let mut rows = vec![vec![0; names.len()]; backtest.models.len()];
    for sums in backtest.series.values() {
        for (model, score) in sums.scores.iter().enumerate() {
            if let Some(wape) = score.figures().wape {
                let class = SERIES_EDGES.iter().position(|edge| wape < *edge).unwrap_or(SERIES_EDGES.len());
                rows[model][class] += 1;
            }
        }
    }
    let figure = Drawn {
        id: "figure-error-series",
        title: "WAPE of single series",
        note: "How many series are how hard. Series without any demand in the windows have no WAPE and are left out."
            .to_owned(),
        y: "Share of series, %".to_owned(),
        first: "WAPE of the series, %",
        caption: "Share of series by WAPE".to_owned(),
    };
    let x = axis("WAPE of the series, %").type_(AxisType::Category);
    shares(material, backtest, &figure, (&names, names.clone(), x), &rows)
}

/// What differs between the two figures.
struct Drawn {
    id: &'static str,
    title: &'static str,
    note: String,
    y: String,
    first: &'static str,
    caption: String,
}

/// Bars of shares: `rows[model][class]` counts. Classes have a name for the table and a place on an axis.
fn shares<X: Serialize + Clone + 'static>(
    material: &Material,
    backtest: &Backtest,
    drawn: &Drawn,
    (names, places, x): (&[String], Vec<X>, Axis),
    rows: &[Vec<u64>],
) -> Figure {
    let mut table = Table::new(&drawn.caption, &[drawn.first]);
    let mut columns: Vec<(Vec<Option<f64>>, &Vec<u64>)> = Vec::new();
    let mut traces = Vec::new();
    for (at, model) in backtest.models.iter().enumerate() {
        let is_drawn = [&material.focus, &material.baseline].iter().any(|name| name.as_deref() == Some(model));
        let Some(counts) = rows.get(at).filter(|_| is_drawn || backtest.models.len() <= 2) else { continue };
        let all: u64 = counts.iter().sum();
        let values: Vec<Option<f64>> = counts.iter().map(|rows| (all > 0).then(|| *rows as f64 / all as f64)).collect();
        if let Some(look) = material.looks.of(model) {
            traces.push(look.bars(places.clone(), &values, None));
        }
        table.number_column(format!("{model}, share"));
        table.number_column(format!("{model}, count"));
        columns.push((values, counts));
    }
    for (row, name) in names.iter().enumerate() {
        let mut cells = vec![Cell::text(name)];
        for (values, counts) in &columns {
            cells.push(Cell::number(percent(values[row])));
            cells.push(Cell::number(count(counts[row])));
        }
        table.row(cells);
    }
    let y = axis(&drawn.y).tick_format(",.0%").hover_format(".1%");
    Figure {
        id: drawn.id.to_owned(),
        title: drawn.title.to_owned(),
        note: drawn.note.clone(),
        alt: format!("Bars: {}.", drawn.caption),
        height: 340,
        plot: plot_json(traces, layout(x, y).bar_mode(BarMode::Group).bar_gap(0.15).hover_mode(HoverMode::X)),
        table,
    }
}

/// `2.5`, `25`, `-300`: no more decimals than the edge has.
fn trimmed(value: f64) -> String {
    let text = format!("{:.1}", value.abs());
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if value < 0.0 { format!("\u{2212}{text}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_read_short() {
        assert_eq!([trimmed(2.5), trimmed(-300.0), trimmed(0.0), trimmed(10.0)], ["2.5", "\u{2212}300", "0", "10"]);
    }
}
