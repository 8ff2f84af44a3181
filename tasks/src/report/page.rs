//! The page as data: verdict, cards, sections, figures with their tables. Templates see nothing else.
//!
//! Built by the sections, turned into HTML by `render`. All texts are plain: escaping is the renderer's work.

use serde::Serialize;

/// How a value stands, said by a word and a sign as well as by a color.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// Look at it.
    Warn,
    /// Neither.
    #[default]
    Plain,
}

/// The whole page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Page {
    /// Of the document.
    pub(super) title: String,
    /// Short facts under the title: tenant, DAG, run.
    pub(super) facts: Vec<Fact>,
    /// The sentence that people came for.
    pub(super) verdict: Verdict,
    /// The figures that people came for.
    pub(super) cards: Vec<Card>,
    /// What the report should have had and had not.
    pub(super) gaps: Vec<Gap>,
    /// Everything else.
    pub(super) sections: Vec<Section>,
}

/// A label and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Fact {
    /// What.
    pub(super) label: String,
    /// How much, which.
    pub(super) value: String,
}

impl Fact {
    /// A label and its value.
    pub(super) fn new(label: &str, value: impl Into<String>) -> Self {
        Self { label: label.to_owned(), value: value.into() }
    }
}

/// Promoted or not, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    /// Color of the banner.
    pub(super) tone: Tone,
    /// "Promoted", "Not promoted", "No decision".
    pub(super) word: String,
    /// One sentence.
    pub(super) headline: String,
    /// Why.
    pub(super) reason: String,
}

/// One big number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Card {
    /// What it is.
    pub(super) label: String,
    /// Formatted.
    pub(super) value: String,
    /// What to compare it with.
    pub(super) note: String,
    /// How it stands.
    pub(super) tone: Tone,
}

/// An artifact that the report would have used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Gap {
    /// Its name.
    pub(super) artifact: String,
    /// A sentence that goes on from the name: "was not made: ...".
    pub(super) reason: String,
}

/// A chapter of the page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Section {
    /// Anchor.
    pub(super) id: &'static str,
    /// Heading.
    pub(super) title: &'static str,
    /// What the reader sees here and how to read it.
    pub(super) lead: String,
    /// Why there is nothing here, if there is nothing.
    pub(super) empty: Option<String>,
    /// In order.
    pub(super) blocks: Vec<Block>,
}

impl Section {
    /// A section without content yet.
    pub(super) fn new(id: &'static str, title: &'static str, lead: impl Into<String>) -> Self {
        Self { id, title, lead: lead.into(), empty: None, blocks: Vec::new() }
    }

    /// A section that says why it is empty.
    pub(super) fn empty(id: &'static str, title: &'static str, why: impl Into<String>) -> Self {
        Self { empty: Some(why.into()), ..Self::new(id, title, "") }
    }

    /// Adds figures that share a row where there is room.
    pub(super) fn figures(&mut self, figures: Vec<Figure>) {
        if !figures.is_empty() {
            self.blocks.push(Block { figures, ..Block::default() });
        }
    }

    /// Adds a table that is open.
    pub(super) fn table(&mut self, table: Table) {
        self.blocks.push(Block { table: Some(table), ..Block::default() });
    }

    /// Adds a row of small facts.
    pub(super) fn facts(&mut self, facts: Vec<Fact>) {
        if !facts.is_empty() {
            self.blocks.push(Block { facts, ..Block::default() });
        }
    }

    /// Adds a heading with a sentence below it.
    pub(super) fn heading(&mut self, heading: impl Into<String>, note: impl Into<String>) {
        let block = Block { heading: Some(heading.into()), note: Some(note.into()), ..Block::default() };
        self.blocks.push(block);
    }
}

/// One of: a heading with its note, facts, a row of figures, a table.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(super) struct Block {
    /// Sub-heading.
    pub(super) heading: Option<String>,
    /// Sentence below it.
    pub(super) note: Option<String>,
    /// Small facts.
    pub(super) facts: Vec<Fact>,
    /// A row of figures.
    pub(super) figures: Vec<Figure>,
    /// An open table.
    pub(super) table: Option<Table>,
}

/// A picture, what it says in words, and its numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Figure {
    /// Anchor, unique on the page.
    pub(super) id: String,
    /// Caption.
    pub(super) title: String,
    /// What to see.
    pub(super) note: String,
    /// For those who do not see the picture.
    pub(super) alt: String,
    /// Pixels.
    pub(super) height: usize,
    /// Data, layout and configuration for plotly, as JSON.
    pub(super) plot: String,
    /// The same numbers.
    pub(super) table: Table,
}

/// Rows and columns of text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(super) struct Table {
    /// What the table holds.
    pub(super) caption: String,
    /// Heads.
    pub(super) columns: Vec<Column>,
    /// Rows.
    pub(super) rows: Vec<Cells>,
}

/// Head of a column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Column {
    /// With its unit, where it has one.
    pub(super) name: String,
    /// Aligned to the right.
    pub(super) numeric: bool,
}

/// A row of a table; the first cell is its head.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(super) struct Cells {
    /// One per column.
    pub(super) cells: Vec<Cell>,
    /// The row that the reader looks for.
    pub(super) strong: bool,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(super) struct Cell {
    /// Formatted.
    pub(super) text: String,
    /// Aligned to the right.
    pub(super) numeric: bool,
    /// A pill in this tone, unless plain.
    pub(super) tone: Tone,
    /// Digests and names of code.
    pub(super) code: bool,
}

impl Cell {
    /// Words.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// A formatted number.
    pub(super) fn number(text: impl Into<String>) -> Self {
        Self { numeric: true, ..Self::text(text) }
    }

    /// A digest or a name of code.
    pub(super) fn code(text: impl Into<String>) -> Self {
        Self { code: true, ..Self::text(text) }
    }

    /// A word with a tone.
    pub(super) fn pill(text: impl Into<String>, tone: Tone) -> Self {
        Self { tone, ..Self::text(text) }
    }
}

impl Table {
    /// A table with columns of words (`"Model"`) and of numbers (`"#WAPE"`: a leading `#`).
    pub(super) fn new(caption: impl Into<String>, columns: &[&str]) -> Self {
        let column = |name: &&str| match name.strip_prefix('#') {
            Some(name) => Column { name: name.to_owned(), numeric: true },
            None => Column { name: (*name).to_owned(), numeric: false },
        };
        Self { caption: caption.into(), columns: columns.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a column of numbers, whose name comes from data.
    pub(super) fn number_column(&mut self, name: impl Into<String>) {
        self.columns.push(Column { name: name.into(), numeric: true });
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(Cells { cells, strong: false });
    }

    /// Adds a row that stands out if `strong`.
    pub(super) fn row_if(&mut self, strong: bool, cells: Vec<Cell>) {
        self.rows.push(Cells { cells, strong });
    }
}
