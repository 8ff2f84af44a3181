//! Numbers as people read them: percent, thousands separators, a real minus sign, "n/a" for nothing.
//!
//! Called by the sections of the report. It rounds for the eye only; what is compared or decided
//! elsewhere is never read back from here.

/// What stands where there is no figure.
pub(super) const MISSING: &str = "n/a";

/// A share as percent: two decimals below 10 %, one above, none from 1,000 %; `0.0929` is `9.29%`.
pub(super) fn percent(share: Option<f64>) -> String {
    let Some(value) = finite(share) else { return MISSING.to_owned() };
    let percent = value * 100.0;
    let decimals = match percent.abs() {
        size if size < 9.995 => 2,
        size if size < 999.95 => 1,
        _ => 0,
    };
    format!("{}%", decimal(percent, decimals))
}

/// A share as percent with its sign; zero has none.
pub(super) fn signed_percent(share: Option<f64>) -> String {
    let text = percent(share);
    match finite(share) {
        Some(value) if value > 0.0 && text.bytes().any(|byte| (b'1'..=b'9').contains(&byte)) => format!("+{text}"),
        _ => text,
    }
}

/// A count with thousands separators.
pub(super) fn count(value: u64) -> String {
    group(&value.to_string())
}

/// A count that may be missing.
pub(super) fn optional_count(value: Option<u64>) -> String {
    value.map_or_else(|| MISSING.to_owned(), count)
}

/// A quantity (units of demand, an error, a ratio): about four significant digits, whole numbers whole.
pub(super) fn quantity(value: Option<f64>) -> String {
    let Some(value) = finite(value) else { return MISSING.to_owned() };
    let decimals = match value.abs() {
        size if size >= 999.5 || value.fract() == 0.0 => 0,
        size if size >= 99.95 => 1,
        size if size >= 0.0995 => 2,
        _ => 4,
    };
    decimal(value, decimals)
}

/// A size in bytes with a decimal unit.
pub(super) fn bytes(value: u64) -> String {
    let mut size = value as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if size < 999.5 {
            let decimals = usize::from(unit != "B" && size < 99.95);
            return format!("{} {unit}", decimal(size, decimals));
        }
        size /= 1000.0;
    }
    format!("{} TB", decimal(size, 1))
}

/// Six significant digits: what a plot can show, without the noise of the last bits.
pub(super) fn plotted(value: f64) -> Option<f64> {
    let value = finite(Some(value))?;
    if value == 0.0 {
        return Some(0.0);
    }
    // Shortest text that keeps six digits; parsing it back gives the same number on every machine.
    format!("{value:.5e}").parse().ok()
}

fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}

fn decimal(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let is_zero = text.bytes().all(|byte| matches!(byte, b'0' | b'.'));
    let sign = if value < 0.0 && !is_zero { "\u{2212}" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{}{point}{fraction}", group(whole))
}

fn group(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_read_as_percent() {
        for (share, text) in [
            (Some(0.0929), "9.29%"),
            (Some(0.7344), "73.4%"),
            (Some(0.09996), "10.0%"),
            (Some(12.5), "1,250%"),
            (Some(-0.055), "\u{2212}5.50%"),
            (Some(-0.000_001), "0.00%"),
            (Some(f64::NAN), MISSING),
            (None, MISSING),
        ] {
            assert_eq!(percent(share), text, "{share:?}");
        }
        assert_eq!(signed_percent(Some(0.004)), "+0.40%");
        assert_eq!(signed_percent(Some(0.0)), "0.00%");
        assert_eq!(signed_percent(Some(0.000_000_1)), "0.00%");
        assert_eq!(signed_percent(Some(-0.338)), "\u{2212}33.8%");
    }

    #[test]
    fn counts_and_quantities_are_grouped() {
        assert_eq!([count(0), count(999), count(1_000), count(541_909)], ["0", "999", "1,000", "541,909"]);
        for (value, text) in
            [(541_909.4, "541,909"), (12.0, "12"), (12.345, "12.35"), (0.012_34, "0.0123"), (-1234.5, "\u{2212}1,234")]
        {
            assert_eq!(quantity(Some(value)), text, "{value}");
        }
        assert_eq!([bytes(12), bytes(1_234), bytes(4_653_932)], ["12 B", "1.2 kB", "4.7 MB"]);
    }

    #[test]
    fn plotted_values_keep_six_digits() {
        assert_eq!(plotted(1.0 / 3.0), Some(0.333_333));
        assert_eq!(plotted(123_456_789.0), Some(123_457_000.0));
        assert_eq!(plotted(f64::INFINITY), None);
    }
}
