//! A small synthetic panel for tests: promotions, holidays, closed Sundays, a gap, a late series.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Date32Array, Float64Array, RecordBatch, StringArray};
use chrono::{Datelike, NaiveDate};
use engine::id::Digest;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::features::kind::document;
use crate::features::panel::Panel;
use crate::features::spec::Spec;
use crate::features::table::write_table;
use crate::features::{FeatureFrame, FeaturesParams};

/// 2022-01-03, a Monday.
pub(crate) const FIRST_DAY: i32 = 18_995;

/// `canonical_schema_snapshot.json` of [`panel_batch`].
pub(crate) fn schema_json() -> Value {
    let column = |(name, kind, role): (&str, &str, &str)| json!({"name": name, "type": kind, "role": role});
    let columns = [
        ("series", "utf8", "series"),
        ("time", "date32", "time"),
        ("demand", "float64", "demand"),
        ("closed", "boolean", "known_future"),
        ("promo", "float64", "known_future"),
        ("holiday", "utf8", "known_future"),
        ("price", "float64", "known_future"),
        ("visitors", "float64", "past_only"),
        ("kind", "utf8", "static"),
    ];
    json!({"format_version": 1, "frequency": "D", "grain": ["item"], "columns": columns.map(column)})
}

/// `panel.parquet`: series `s000`, `s001` ..., each of `days` days (every third begins 40 days late),
/// with a weekly shape, a level, a promotion that doubles demand and noise that no feature explains.
pub(crate) fn panel_batch(series: usize, days: i32) -> RecordBatch {
    let mut noise = 12_345_u64;
    let mut random = move || {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (noise >> 33) as f64 / f64::from(1_u32 << 31)
    };
    let (mut names, mut times, mut demand, mut closed) = (vec![], vec![], vec![], vec![]);
    let (mut promo, mut holiday, mut price, mut visitors, mut kind) = (vec![], vec![], vec![], vec![], vec![]);
    for index in 0..series {
        for day in if index % 3 == 2 { 40 } else { 0 }..days {
            let date = NaiveDate::from_num_days_from_ce_opt(FIRST_DAY + day + 719_163).expect("a date");
            let is_closed = date.weekday().num_days_from_monday() == 6;
            let on_promo = (day / 5 + index as i32) % 4 == 0;
            let level = 20.0 * (index + 1) as f64 * [1.0, 0.8, 0.9, 1.1, 1.6, 1.9, 0.0][(day % 7) as usize];
            let sold = level * if on_promo { 2.0 } else { 1.0 } * (0.8 + 0.4 * random());
            let unknown = is_closed || (index == 1 && (60..75).contains(&day));
            names.push(format!("s{index:03}"));
            times.push(FIRST_DAY + day);
            demand.push((!unknown).then(|| sold.round()));
            closed.push(is_closed);
            promo.push(Some(f64::from(u8::from(on_promo))));
            holiday.push(if day % 50 == 17 { "easter" } else { "none" });
            price.push(Some(if on_promo { 4.0 } else { 5.0 }));
            visitors.push((!unknown).then(|| sold * 3.0 + random()));
            kind.push(["corner", "city"][index % 2]);
        }
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("series", Arc::new(StringArray::from(names))),
        ("time", Arc::new(Date32Array::from(times))),
        ("demand", Arc::new(Float64Array::from(demand))),
        ("closed", Arc::new(BooleanArray::from(closed))),
        ("promo", Arc::new(Float64Array::from(promo))),
        ("holiday", Arc::new(StringArray::from(holiday))),
        ("price", Arc::new(Float64Array::from(price))),
        ("visitors", Arc::new(Float64Array::from(visitors))),
        ("kind", Arc::new(StringArray::from(kind))),
    ];
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

/// [`panel_batch`], read.
pub(crate) fn panel(series: usize, days: i32) -> Panel {
    let schema = serde_json::from_value(schema_json()).expect("a schema");
    Panel::read(&schema, [Ok(panel_batch(series, days))]).expect("a panel")
}

/// The features of a panel, as models read them.
pub(crate) fn frame_of(panel: &Panel, params: &FeaturesParams) -> FeatureFrame {
    let spec = Spec::new(params, panel);
    let mut batches = Vec::new();
    let keep = |batch: &RecordBatch| {
        batches.push(Ok(batch.clone()));
        Ok(())
    };
    write_table(&spec, panel, &CancellationToken::new(), keep).expect("features");
    let document = document(panel, &spec, Digest::of(b"panel")).expect("a document");
    FeatureFrame::from_batches(document, batches).expect("a frame")
}
