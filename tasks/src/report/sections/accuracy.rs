//! How good the models were: by origin, by steps ahead, by segment, and on which side they err.

use plotly::layout::{AxisType, BarMode, HoverMode, RangeMode, TraceOrder};

use crate::metrics::Figures;
use crate::report::figure::{axis, layout, legend, plain, plot_json};
use crate::report::material::{Material, StepScores};
use crate::report::number::{count, percent, quantity, signed_percent};
use crate::report::page::{Cell, Figure, Section, Table};
use crate::report::sections::errors;

const ID: &str = "accuracy";
const TITLE: &str = "Accuracy";

/// The section.
pub(in crate::report) fn section(material: &Material) -> Section {
    if material.models().is_empty() {
        let why = material.why_missing("metrics.json");
        return Section::empty(ID, TITLE, format!("No model was judged. {why}"));
    }
    let lead = "WAPE is the sum of absolute errors over the sum of demand: 0% is perfect, and lower is better. Bias is the \
                signed sum of errors over the sum of demand: above 0 too much was forecast, below 0 too little.";
    let mut section = Section::new(ID, TITLE, lead);
    section.figures(vec![by_origin(material, &WAPE), by_origin(material, &BIAS)]);
    let mut rest: Vec<Figure> = Vec::new();
    rest.extend(by_step(material));
    rest.extend(by_slice(material));
    section.figures(rest);
    errors::add(material, &mut section);
    section
}

/// A figure of merit that is shown by model and origin.
struct Measure {
    id: &'static str,
    title: &'static str,
    note: &'static str,
    axis: &'static str,
    value: fn(&Figures) -> Option<f64>,
    text: fn(Option<f64>) -> String,
}

const WAPE: Measure = Measure {
    id: "figure-wape-origin",
    title: "WAPE by origin",
    note: "Each group of bars is one window, each bar one model. Lower is better.",
    axis: "WAPE, % of demand",
    value: |figures| figures.wape,
    text: percent,
};

const BIAS: Measure = Measure {
    id: "figure-bias-origin",
    title: "Bias by origin",
    note: "Above the zero line too much was forecast, below it too little.",
    axis: "Bias, % of demand",
    value: |figures| figures.bias,
    text: signed_percent,
};

fn by_origin(material: &Material, measure: &Measure) -> Figure {
    let origins = material.origins();
    let models = material.models();
    let mut table = Table::new(format!("{} and model", measure.title), &["Origin"]);
    models.iter().for_each(|model| table.number_column(model.clone()));
    let value = |model: &str, origin: Option<&str>| {
        material.figures(model, origin).and_then(|figures| (measure.value)(&figures))
    };
    let mut traces = Vec::new();
    let mut drawn = Vec::new();
    // More bars than fit are better read in the table than printed over each other.
    let labeled = origins.len() * models.len() <= 12;
    for model in &models {
        let values: Vec<Option<f64>> = origins.iter().map(|origin| value(model, Some(origin))).collect();
        drawn.extend(values.iter().flatten());
        let labels = labeled.then(|| values.iter().map(|value| label(*value)).collect());
        if let Some(look) = material.looks.of(model) {
            traces.push(look.bars(origins.iter().map(|origin| plain(origin)).collect(), &values, labels));
        }
    }
    for origin in &origins {
        let cells = models.iter().map(|model| Cell::number((measure.text)(value(model, Some(origin)))));
        table.row(std::iter::once(Cell::text(origin)).chain(cells).collect());
    }
    let all = models.iter().map(|model| Cell::number((measure.text)(value(model, None))));
    table.row_if(true, std::iter::once(Cell::text("All origins")).chain(all).collect());
    let names: Vec<&str> = models.iter().map(String::as_str).collect();
    let room = with_room(&drawn);
    let x = axis("Origin (last date seen)").type_(AxisType::Category);
    let y = axis(measure.axis).tick_format(",.0%").hover_format(".2%").range(room.to_vec());
    Figure {
        id: measure.id.to_owned(),
        title: measure.title.to_owned(),
        note: measure.note.to_owned(),
        alt: format!("Grouped bars: {} of {} at {} origins.", measure.axis, names.join(", "), origins.len()),
        height: 340,
        plot: plot_json(traces, layout(x, y).bar_mode(BarMode::Group).bar_gap(0.28).hover_mode(HoverMode::X)),
        table,
    }
}

/// Short enough to stand above a bar; the table has all digits.
fn label(value: Option<f64>) -> String {
    value.map(|value| format!("{:.1}%", value * 100.0).replace('-', "\u{2212}")).unwrap_or_default()
}

/// Room for the labels beyond the longest bars, and the zero line always in sight.
fn with_room(values: &[f64]) -> [f64; 2] {
    let (low, high) = values.iter().fold((0.0, 0.0), |(low, high), value| (value.min(low), value.max(high)));
    // A range without extent is none; without a value any will do.
    if low == high { [0.0, 1.0] } else { [low * 1.25, high * 1.12] }
}

fn by_step(material: &Material) -> Option<Figure> {
    let StepScores { classes, by_model } = material.by_steps();
    if classes.len() < 2 {
        return None;
    }
    let name =
        |&(first, last): &(i32, i32)| if first == last { first.to_string() } else { format!("{first}\u{2013}{last}") };
    let names: Vec<String> = classes.iter().map(name).collect();
    let ahead = format!("{}s ahead", capital(material.period()));
    let mut table = Table::new("WAPE by steps ahead and model", &[ahead.as_str()]);
    let mut traces = Vec::new();
    for (model, values) in &by_model {
        if let Some(look) = material.looks.of(model) {
            traces.push(look.marked_line(names.clone(), values));
        }
        table.number_column(model.clone());
    }
    for (row, name) in names.iter().enumerate() {
        let cells = by_model.values().map(|values| Cell::number(percent(values.get(row).copied().flatten())));
        table.row(std::iter::once(Cell::text(name)).chain(cells).collect());
    }
    let x = axis(&ahead).type_(AxisType::Category);
    let y = axis("WAPE, % of demand").tick_format(",.0%").hover_format(".2%").range_mode(RangeMode::ToZero);
    Some(Figure {
        id: "figure-wape-step".to_owned(),
        title: "WAPE by steps ahead".to_owned(),
        note: "All windows together. A line that climbs loses skill with distance.".to_owned(),
        alt: "Lines: WAPE of each model by how far ahead the forecast is.".to_owned(),
        height: 340,
        plot: plot_json(traces, layout(x, y)),
        table,
    })
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// WAPE of the model that the report is about and of the baseline on each segment, where evaluation made segments.
fn by_slice(material: &Material) -> Option<Figure> {
    let slices = material.segments();
    if slices.is_empty() {
        return None;
    }
    let mut models: Vec<&String> = [&material.focus, &material.baseline].into_iter().flatten().collect();
    models.dedup();
    let mut table =
        Table::new("Figures by segment, all origins", &["Segment", "Model", "#WAPE", "#Bias", "#MAE, units", "#Rows"]);
    let mut traces = Vec::new();
    // Bars are stacked from the bottom up, as names are; the legend is turned with them.
    for model in models.iter().rev() {
        let rows: Vec<_> = slices.iter().map(|slice| material.row(model, None, slice)).collect();
        let values: Vec<Option<f64>> = rows.iter().map(|row| row.and_then(|row| row.wape)).collect();
        if let Some(look) = material.looks.of(model) {
            traces.push(look.bars_across(&slices, &values));
        }
    }
    for slice in &slices {
        for row in models.iter().filter_map(|model| material.row(model, None, slice)) {
            table.row(vec![
                Cell::text(slice),
                Cell::text(&row.model),
                Cell::number(percent(row.wape)),
                Cell::number(signed_percent(row.bias)),
                Cell::number(quantity(row.mae)),
                Cell::number(row.rows.map(count).unwrap_or_default()),
            ]);
        }
    }
    let x = axis("WAPE, % of demand").tick_format(",.0%");
    let legend = legend().trace_order(TraceOrder::Reversed);
    let layout =
        layout(x, axis("")).bar_mode(BarMode::Group).bar_gap(0.3).hover_mode(HoverMode::Closest).legend(legend);
    Some(Figure {
        id: "figure-wape-segment".to_owned(),
        title: "WAPE by segment".to_owned(),
        note: "abc: by demand, a holds the bulk of it. demand: by how regular it is (gaps and size).".to_owned(),
        alt: format!("Grouped bars: WAPE on {} segments.", slices.len()),
        height: (110 + 38 * slices.len()).max(340),
        plot: plot_json(traces, layout),
        table,
    })
}
