//! Places where a test can make this process fail: abort, hang, wait, or see an error.
//!
//! Called by `store` and `artifact` at the moments at which a crash would hurt most. Without the cargo
//! feature `failpoints` a place is an empty function; the product is built without it, tests with it.
//!
//! `FAILPOINTS=claim.after_commit=2*off->abort;publish.after_put=sleep(50)`: places separated by
//! `;`, steps of a place by `->`, each step `[times*]action`; the last one stays. Actions: `off`,
//! `abort` (as `kill -9`: nothing is cleaned up), `pause` (for ever), `error`, `sleep(ms)`.

#[cfg(feature = "failpoints")]
pub(crate) use active::hit;

/// A place that does nothing.
///
/// # Errors
/// None.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub(crate) async fn hit(_name: &'static str) -> std::io::Result<()> {
    Ok(())
}

#[cfg(feature = "failpoints")]
mod active {
    use std::collections::HashMap;
    use std::sync::{Mutex, OnceLock};
    use std::time::Duration;

    #[derive(Debug, Clone, Copy, PartialEq)]
    pub(super) enum Action {
        Off,
        Abort,
        Pause,
        Error,
        Sleep(Duration),
    }

    /// An action, and how many times it is taken; `None` = from then on.
    pub(super) type Step = (Option<u32>, Action);

    static PLACES: OnceLock<Mutex<HashMap<String, Vec<Step>>>> = OnceLock::new();

    /// Does what `FAILPOINTS` says for this place.
    ///
    /// # Errors
    /// Told to fail.
    pub(crate) async fn hit(name: &'static str) -> std::io::Result<()> {
        let places = PLACES.get_or_init(|| Mutex::new(parse(&std::env::var("FAILPOINTS").unwrap_or_default())));
        let action = {
            let mut places = places.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            places.get_mut(name).map_or(Action::Off, next)
        };
        if action == Action::Off {
            return Ok(());
        }
        // Tests wait for this line.
        tracing::warn!("failpoint {name}: {action:?}");
        match action {
            Action::Off => Ok(()),
            Action::Abort => std::process::abort(),
            Action::Pause => std::future::pending().await,
            Action::Error => Err(std::io::Error::other(format!("failpoint {name}"))),
            Action::Sleep(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
        }
    }

    pub(super) fn next(steps: &mut Vec<Step>) -> Action {
        let Some((left, action)) = steps.first_mut() else { return Action::Off };
        let action = *action;
        if let Some(left) = left {
            *left -= 1;
            if *left == 0 {
                steps.remove(0);
            }
        }
        action
    }

    /// Panics on what it does not understand: a test that sets the variable wants to be told.
    pub(super) fn parse(text: &str) -> HashMap<String, Vec<Step>> {
        let places = text.split(';').map(str::trim).filter(|place| !place.is_empty());
        places
            .map(|place| {
                let parsed = place.split_once('=').and_then(|(name, steps)| {
                    let steps: Option<Vec<Step>> = steps.split("->").map(|it| step(it.trim())).collect();
                    Some((name.trim().to_owned(), steps?))
                });
                parsed.unwrap_or_else(|| panic!("FAILPOINTS: {place:?} is not name=[times*]action[->...]"))
            })
            .collect()
    }

    fn step(text: &str) -> Option<Step> {
        let (times, word) = match text.split_once('*') {
            Some((times, word)) => (Some(times.parse().ok().filter(|times| *times > 0)?), word),
            None => (None, text),
        };
        let action = match word {
            "off" => Action::Off,
            "abort" => Action::Abort,
            "pause" => Action::Pause,
            "error" => Action::Error,
            _ => {
                let millis = word.strip_prefix("sleep(")?.strip_suffix(')')?;
                Action::Sleep(Duration::from_millis(millis.parse().ok()?))
            }
        };
        Some((times, action))
    }
}

#[cfg(all(test, feature = "failpoints"))]
mod tests {
    use std::time::Duration;

    use super::active::{Action, next, parse};

    #[test]
    fn steps_are_taken_in_order_and_the_last_one_stays() {
        let mut places = parse("a=2*off->1*sleep(5)->error; b = abort");
        let steps = places.get_mut("a").expect("there");
        let taken: Vec<_> = (0..5).map(|_| next(steps)).collect();
        let sleep = Action::Sleep(Duration::from_millis(5));
        assert_eq!(taken, [Action::Off, Action::Off, sleep, Action::Error, Action::Error]);
        assert_eq!(next(places.get_mut("b").expect("there")), Action::Abort);
        assert!(parse("").is_empty());
    }

    #[test]
    #[should_panic(expected = "name=")]
    fn what_is_not_understood_is_refused() {
        parse("a=explode");
    }
}
