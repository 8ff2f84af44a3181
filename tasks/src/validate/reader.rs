//! Reads one TOML table key by key and notes everything that is wrong with it.
//!
//! Called by `suite`. A key that nobody asked for is unknown, and the keys that were asked for are what it may
//! have meant; so there is no second list of keys to keep in step.

use serde_json::Value;

/// A table being read.
pub(super) struct Reader<'a> {
    place: String,
    table: toml::Table,
    asked: Vec<&'static str>,
    problems: &'a mut Vec<String>,
}

impl<'a> Reader<'a> {
    /// `place` names the table in problems.
    pub(super) fn new(place: &str, table: toml::Table, problems: &'a mut Vec<String>) -> Self {
        Self { place: place.to_owned(), table, asked: Vec::new(), problems }
    }

    /// Names the table otherwise from now on.
    pub(super) fn rename(&mut self, place: &str) {
        place.clone_into(&mut self.place);
    }

    /// Notes a problem of this table.
    pub(super) fn problem(&mut self, text: String) {
        self.problems.push(format!("{}: {text}", self.place));
    }

    /// Notes every key that nobody asked for.
    pub(super) fn finish(mut self) {
        for key in std::mem::take(&mut self.table).keys() {
            let hint = nearest(key, &self.asked);
            self.problem(format!("unknown key {key:?}; {hint}"));
        }
    }

    /// A table; empty if there is none.
    pub(super) fn table(&mut self, key: &'static str) -> toml::Table {
        self.take(key, "a table", |value| match value {
            toml::Value::Table(table) => Some(table),
            _ => None,
        })
        .unwrap_or_default()
    }

    /// A list of tables; empty if there is none.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<toml::Table> {
        let table = |value| match value {
            toml::Value::Table(table) => Some(table),
            _ => None,
        };
        self.list(key, "a list of tables", table)
    }

    /// A text.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.take(key, "a text", text)
    }

    /// A text that has to be there; empty if it is not, which is noted.
    pub(super) fn required_text(&mut self, key: &'static str) -> String {
        self.require(key);
        self.text(key).unwrap_or_default()
    }

    /// A list of texts that has to be there.
    pub(super) fn texts(&mut self, key: &'static str) -> Vec<String> {
        self.require(key);
        self.list(key, "a list of texts", text)
    }

    /// A list of numbers, texts or flags that has to be there.
    pub(super) fn scalars(&mut self, key: &'static str) -> Vec<Value> {
        self.require(key);
        self.list(key, "a list of numbers, texts or dates", scalar)
    }

    /// A number, a text, a date or a flag.
    pub(super) fn scalar(&mut self, key: &'static str) -> Option<Value> {
        self.take(key, "a number or a date", scalar)
    }

    /// A number.
    pub(super) fn number(&mut self, key: &'static str) -> Option<f64> {
        self.take(key, "a number", |value| scalar(value)?.as_f64())
    }

    /// A whole number from 0.
    pub(super) fn whole(&mut self, key: &'static str) -> Option<i64> {
        self.take(key, "a whole number from 0", |value| value.as_integer().filter(|number| *number >= 0))
    }

    /// `true` or `false`; false if it is not there.
    pub(super) fn flag(&mut self, key: &'static str) -> bool {
        self.take(key, "true or false", |value| value.as_bool()).unwrap_or(false)
    }

    /// One of the words, which has to be there.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&'static str, T)],
    ) -> Option<(&'static str, T)> {
        self.require(key);
        let text = self.text(key)?;
        let found = words.iter().find(|(word, _)| *word == text).copied();
        if found.is_none() {
            let hint = nearest(&text, &words.iter().map(|(word, _)| *word).collect::<Vec<_>>());
            self.problem(format!("{key} = {text:?} is not known; {hint}"));
        }
        found
    }

    /// One of the words, if the key is there.
    pub(super) fn optional_word<T: Copy>(&mut self, key: &'static str, words: &[(&'static str, T)]) -> Option<T> {
        if !self.table.contains_key(key) {
            self.asked.push(key);
            return None;
        }
        self.word(key, words).map(|(_, meant)| meant)
    }

    fn require(&mut self, key: &'static str) {
        if !self.table.contains_key(key) {
            self.problem(format!("`{key}` is missing"));
        }
    }

    fn list<T>(&mut self, key: &'static str, what: &str, convert: impl Fn(toml::Value) -> Option<T>) -> Vec<T> {
        let list = self.take(key, what, |value| match value {
            toml::Value::Array(values) if !values.is_empty() => values.into_iter().map(convert).collect(),
            _ => None,
        });
        list.unwrap_or_default()
    }

    fn take<T>(&mut self, key: &'static str, what: &str, convert: impl FnOnce(toml::Value) -> Option<T>) -> Option<T> {
        self.asked.push(key);
        let value = self.table.remove(key)?;
        let shown = value.to_string();
        let converted = convert(value);
        if converted.is_none() {
            self.problem(format!("{key} = {shown} is not {what}"));
        }
        converted
    }
}

/// A TOML value as JSON; dates become text.
pub(super) fn json(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::from(text.as_str()),
        toml::Value::Integer(number) => Value::from(*number),
        toml::Value::Float(number) => Value::from(*number),
        toml::Value::Boolean(flag) => Value::from(*flag),
        toml::Value::Datetime(moment) => Value::from(moment.to_string()),
        toml::Value::Array(values) => values.iter().map(json).collect(),
        toml::Value::Table(table) => table.iter().map(|(key, value)| (key.clone(), json(value))).collect(),
    }
}

fn text(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        _ => None,
    }
}

fn scalar(value: toml::Value) -> Option<Value> {
    // `nan` and `inf` become null: they are no bounds.
    Some(json(&value)).filter(|value| value.is_number() || value.is_string() || value.is_boolean())
}

fn nearest(name: &str, known: &[&str]) -> String {
    let judged = known.iter().map(|word| (strsim::damerau_levenshtein(name, word), *word));
    // A third of the letters may be wrong; the DAG's diagnostics say the same.
    let meant = judged.min().filter(|(distance, _)| *distance <= (name.chars().count() / 3).max(1));
    let meant = meant.map(|(_, word)| format!("did you mean {word:?}? ")).unwrap_or_default();
    format!("{meant}there are: {}", known.join(", "))
}
