//! How pictures look: palette, axes, layout; and how a plot becomes JSON that is safe to embed.
//!
//! Called by the sections that draw. Every model keeps its color, dash, marker and hatch on the whole
//! page, so that no picture hangs on color alone.

use indexmap::IndexMap;
use plotly::Bar;
use plotly::Configuration;
use plotly::Layout;
use plotly::Plot;
use plotly::Scatter;
use plotly::Trace;
use plotly::common::{
    Anchor, ConstrainText, DashType, Font, Label, Line, Marker, MarkerSymbol, Mode, Orientation, Pattern, PatternShape,
    TextPosition, Title,
};
use plotly::configuration::{DisplayModeBar, ModeBarButtonName};
use plotly::layout::{Axis, DragMode, HoverMode, Legend, Margin, RangeMode, Shape, ShapeLayer, ShapeLine, ShapeType};

use serde::Serialize;

use crate::report::number::plotted;
use crate::report::render::visible;

/// Fonts of page and pictures: Inter where it is installed, else what the system reads best.
pub(super) const FONTS: &str = "Inter, 'Inter Variable', ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, \
                                'Helvetica Neue', Arial, sans-serif";
/// The color of what matters.
pub(super) const PRIMARY: &str = "#2563EB";
/// Grid lines.
const GRID: &str = "#F3F4F6";
/// Axis lines and zero lines.
const AXIS: &str = "#D1D5DB";
/// Text in pictures.
const INK: &str = "#374151";
/// What happened: darker than any forecast.
const ACTUAL: &str = "#111827";
/// The baseline.
const BASELINE: &str = "#6B7280";
/// All other models; distinct for the common kinds of color blindness (checked in gray, too).
const OTHERS: [&str; 5] = ["#D97706", "#059669", "#9333EA", "#DB2777", "#0E7490"];

/// How one model is drawn everywhere.
#[derive(Debug, Clone)]
pub(super) struct Look {
    /// Its name, safe as a text of plotly.
    name: String,
    color: &'static str,
    dash: DashType,
    width: f64,
    symbol: MarkerSymbol,
    hatch: PatternShape,
}

/// The looks of all models, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Looks(IndexMap<String, Look>);

impl Looks {
    /// Gives each model its look: `focus` in the primary color, `baseline` in gray, others from the palette.
    pub(super) fn new<'a>(models: impl Iterator<Item = &'a str>, focus: Option<&str>, baseline: Option<&str>) -> Self {
        let dashes = [DashType::Dot, DashType::DashDot, DashType::LongDash, DashType::LongDashDot, DashType::Dot];
        let symbols =
            [MarkerSymbol::Diamond, MarkerSymbol::TriangleUp, MarkerSymbol::Cross, MarkerSymbol::X, MarkerSymbol::Star];
        let hatches =
            [PatternShape::LeftDiagonalLine, PatternShape::Dot, PatternShape::Cross, PatternShape::VerticalLine];
        let mut others = 0;
        let mut looks = IndexMap::new();
        for model in models {
            let name = plain(model);
            let look = if Some(model) == focus {
                let (symbol, hatch) = (MarkerSymbol::Circle, PatternShape::None);
                Look { name, color: PRIMARY, dash: DashType::Solid, width: 2.5, symbol, hatch }
            } else if Some(model) == baseline {
                let (symbol, hatch) = (MarkerSymbol::Square, PatternShape::RightDiagonalLine);
                Look { name, color: BASELINE, dash: DashType::Dash, width: 1.5, symbol, hatch }
            } else {
                let nth = others;
                others += 1;
                Look {
                    name,
                    color: OTHERS[nth % OTHERS.len()],
                    dash: dashes[nth % dashes.len()].clone(),
                    width: 1.5,
                    symbol: symbols[nth % symbols.len()].clone(),
                    hatch: hatches[nth % hatches.len()].clone(),
                }
            };
            looks.insert(model.to_owned(), look);
        }
        Self(looks)
    }

    /// The look of `model`, if it is known.
    pub(super) fn of(&self, model: &str) -> Option<&Look> {
        self.0.get(model)
    }
}

impl Look {
    /// A line over time or over steps.
    pub(super) fn line(&self, x: Vec<String>, y: &[Option<f64>]) -> Box<dyn Trace> {
        let line = Line::new().color(self.color).dash(self.dash.clone()).width(self.width);
        Scatter::new(x, values(y)).name(&self.name).mode(Mode::Lines).line(line).connect_gaps(false)
    }

    /// A line with a marker at each point, for few points.
    pub(super) fn marked_line(&self, x: Vec<String>, y: &[Option<f64>]) -> Box<dyn Trace> {
        let line = Line::new().color(self.color).dash(self.dash.clone()).width(self.width);
        let marker = Marker::new().color(self.color).size(8).symbol(self.symbol.clone());
        Scatter::new(x, values(y)).name(&self.name).mode(Mode::LinesMarkers).line(line).marker(marker)
    }

    /// Bars that stand beside those of other models; `labels` are printed at their ends.
    pub(super) fn bars<X: Serialize + Clone + 'static>(
        &self,
        x: Vec<X>,
        y: &[Option<f64>],
        labels: Option<Vec<String>>,
    ) -> Box<dyn Trace> {
        let bar = Bar::new(x, values(y)).name(&self.name).marker(self.filled());
        match labels {
            Some(labels) => bar
                .text_array(labels)
                .text_position(TextPosition::Outside)
                .text_font(Font::new().size(11).color(INK))
                .text_angle(0.0)
                .constrain_text(ConstrainText::None)
                .clip_on_axis(false),
            None => bar,
        }
    }

    /// Bars from left to right, for names too long to stand below an axis; the first name on top.
    pub(super) fn bars_across(&self, names: &[String], lengths: &[Option<f64>]) -> Box<dyn Trace> {
        across(names, lengths).name(&self.name).marker(self.filled()).hover_template("%{y}: %{x:.2%}")
    }

    fn filled(&self) -> Marker {
        Marker::new().color(self.color).pattern(Pattern::new().shape(self.hatch.clone()).solidity(0.25).size(7.0))
    }
}

/// The line of what happened.
pub(super) fn actual_line(x: Vec<String>, y: &[Option<f64>]) -> Box<dyn Trace> {
    let marker = Marker::new().color(ACTUAL).size(4);
    let line = Line::new().color(ACTUAL).width(1.5);
    Scatter::new(x, values(y)).name("actual").mode(Mode::LinesMarkers).line(line).marker(marker).connect_gaps(false)
}

/// Bars from left to right for a ranking; the first on top.
pub(super) fn ranking(names: &[String], lengths: &[Option<f64>]) -> Box<dyn Trace> {
    across(names, lengths).marker(Marker::new().color(PRIMARY)).hover_template("%{y}: %{x:.1%}<extra></extra>")
}

/// Plotly stacks categories from the bottom up; people read from the top down.
fn across(names: &[String], lengths: &[Option<f64>]) -> Box<Bar<Option<f64>, Option<String>>> {
    let names = names.iter().rev().map(|name| Some(plain(name))).collect();
    let lengths: Vec<Option<f64>> = lengths.iter().rev().copied().collect();
    Bar::new(values(&lengths), names).orientation(Orientation::Horizontal)
}

/// An axis with its title; the unit belongs into it.
pub(super) fn axis(title: &str) -> Axis {
    let font = Font::new().size(12).color(INK);
    Axis::new()
        .title(Title::with_text(plain(title)).font(font))
        .grid_color(GRID)
        .line_color(AXIS)
        .zero_line_color(AXIS)
        .show_line(true)
        .auto_margin(true)
        .fixed_range(false)
}

/// An axis of quantities: thousands separated, no needless decimals.
pub(super) fn quantity_axis(title: &str) -> Axis {
    axis(title).tick_format(",~f").hover_format(",.1f").range_mode(RangeMode::ToZero)
}

/// A legend in a row above the picture.
pub(super) fn legend() -> Legend {
    Legend::new()
        .orientation(Orientation::Horizontal)
        .x(0.0)
        .x_anchor(Anchor::Left)
        .y(1.04)
        .y_anchor(Anchor::Bottom)
        .font(Font::new().size(12).color(INK))
}

/// A layout with its legend, white ground and the page's fonts.
pub(super) fn layout(x: Axis, y: Axis) -> Layout {
    Layout::new()
        .x_axis(x)
        .y_axis(y)
        .legend(legend())
        .show_legend(true)
        .font(Font::new().family(FONTS).size(12).color(INK))
        .paper_background_color("#FFFFFF")
        .plot_background_color("#FFFFFF")
        .margin(Margin::new().left(56).right(16).top(16).bottom(48))
        // A finger on a picture scrolls the page; zoom is a button away.
        .drag_mode(DragMode::False)
        .hover_mode(HoverMode::XUnified)
        .hover_label(Label::new().font(Font::new().family(FONTS).size(12)))
        .auto_size(true)
}

/// A dotted vertical line at `x`: where a model stopped seeing the data.
pub(super) fn marker_line(x: &str) -> Shape {
    Shape::new()
        .shape_type(ShapeType::Line)
        .x0(x)
        .x1(x)
        .y_ref("paper")
        .y0(0.0)
        .y1(1.0)
        .layer(ShapeLayer::Below)
        .line(ShapeLine::new().color(AXIS).width(1.0).dash(DashType::Dot))
}

/// Data, layout and configuration as JSON that can stand inside a `<script>` element.
pub(super) fn plot_json(traces: Vec<Box<dyn Trace>>, layout: Layout) -> String {
    let mut plot = Plot::new();
    plot.add_traces(traces);
    plot.set_layout(layout);
    plot.set_configuration(
        Configuration::new()
            .responsive(true)
            .display_logo(false)
            .display_mode_bar(DisplayModeBar::Hover)
            .mode_bar_buttons_to_remove(vec![
                ModeBarButtonName::Select2d,
                ModeBarButtonName::Lasso2d,
                ModeBarButtonName::AutoScale2d,
            ]),
    );
    embedded(&plot.to_json())
}

/// JSON that ends no `<script>` element and opens no comment in it: `<`, `>` and `&` only occur in
/// strings of JSON, where an escape says the same. So do the two line separators.
fn embedded(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' => safe.push_str("\\u003c"),
            '>' => safe.push_str("\\u003e"),
            '&' => safe.push_str("\\u0026"),
            '\u{2028}' => safe.push_str("\\u2028"),
            '\u{2029}' => safe.push_str("\\u2029"),
            other => safe.push(other),
        }
    }
    safe
}

/// A text from data as plotly has to get it: plotly reads a subset of HTML (`<b>`, `<a href>`) in names and
/// labels, and entities; so these are escaped once more than JSON needs.
pub(super) fn plain(text: &str) -> String {
    let text: String = text.chars().map(visible).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn values(y: &[Option<f64>]) -> Vec<Option<f64>> {
    y.iter().map(|value| value.and_then(plotted)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_a_script_can_not_end_it() {
        let looks = Looks::new(["</script><script>alert(1)"].into_iter(), None, None);
        let look = looks.of("</script><script>alert(1)").expect("it was given");
        let json = plot_json(vec![look.line(vec!["<!--".to_owned()], &[Some(1.0)])], layout(axis("a & b"), axis("y")));
        assert!(!json.contains(['<', '>', '&']), "{json}");
        let value: serde_json::Value = serde_json::from_str(&json).expect("still JSON");
        assert_eq!(value["data"][0]["name"], "&lt;/script&gt;&lt;script&gt;alert(1)");
        assert_eq!(value["data"][0]["x"][0], "<!--");
    }

    #[test]
    fn models_differ_in_more_than_color() {
        let names = ["gbdt", "seasonal_naive", "lstm", "nbeats"];
        let looks = Looks::new(names.into_iter(), Some("gbdt"), Some("seasonal_naive"));
        let dashes: std::collections::BTreeSet<String> = names
            .iter()
            .filter_map(|name| looks.of(name))
            .map(|look| format!("{:?} {:?}", look.dash, look.hatch))
            .collect();
        assert_eq!(dashes.len(), names.len());
        assert_eq!(looks.of("gbdt").map(|look| look.color), Some(PRIMARY));
    }
}
