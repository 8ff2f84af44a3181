//! "Did you mean ...?" for names that do not exist.
//!
//! Called wherever a diagnostic names a key, a kind, a task or a parameter that is not there.

/// Longer names are compared with nothing: no one means them, and the work grows with the square.
const LONGEST: usize = 80;

/// The candidate nearest to `name`, if it is near enough to be meant.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters = name.chars().count();
    if letters > LONGEST {
        return None;
    }
    // A third of the letters may be wrong: `retrys` for `retries`, not `pool` for `kind`.
    let allowed = (letters / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// A help line: the suggestion, if there is one, and what there is.
pub(crate) fn help<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    let mut known = candidates.clone().into_iter().take(25).collect::<Vec<_>>();
    let all = candidates.clone().into_iter().count();
    if all > known.len() {
        known.push("...");
    }
    match (nearest(name, candidates), known.is_empty()) {
        (Some(meant), _) => format!("did you mean {meant:?}? There are: {}", known.join(", ")),
        (None, false) => format!("there are: {}", known.join(", ")),
        (None, true) => "there are none".to_owned(),
    }
}

/// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbors, on lower
/// case (Boytsov 2011, "Indexing methods for approximate dictionary searching", section 2.1).
fn distance(a: &str, b: &str) -> usize {
    let a = a.to_lowercase().replace('-', "_").chars().collect::<Vec<_>>();
    let b = b.to_lowercase().replace('-', "_").chars().collect::<Vec<_>>();
    let mut before = Vec::new();
    let mut above = (0..=b.len()).collect::<Vec<_>>();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut cost = (above[j] + usize::from(x != y)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                let two_back: &Vec<usize> = &before;
                cost = cost.min(two_back[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested() {
        let keys = ["kind", "needs", "with", "retries", "timeout", "trigger_rule"];
        let cases = [
            ("nedds", Some("needs")),
            ("retrys", Some("retries")),
            ("tiemout", Some("timeout")),
            ("trigger-rule", Some("trigger_rule")),
            ("Kind", Some("kind")),
            ("pool", None),
            ("x", None),
            ("", None),
        ];
        for (name, expected) in cases {
            assert_eq!(nearest(name, keys), expected, "{name}");
        }
        assert_eq!(nearest(&"needs".repeat(1_000_000), keys), None, "and at once");
    }

    #[test]
    fn distances() {
        for (a, b, expected) in [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("ab", "ba", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
