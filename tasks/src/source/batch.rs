//! Rows of parsed cells into Arrow columns.
//!
//! `records` (CSV and JSON lines) is the caller. A row goes in whole or not at all, so the columns never differ in
//! length.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Date32Builder, Float64Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::cells::Cell;
use super::{BATCH_ROWS, RowId};
use crate::contract::{CellType, Table};

enum Column {
    Text(StringBuilder),
    Integer(Int64Builder),
    Number(Float64Builder),
    Boolean(BooleanBuilder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
}

/// A batch in the making.
pub(super) struct BatchBuilder {
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: Int64Builder,
    length: usize,
}

impl BatchBuilder {
    pub(super) fn new(table: &Table) -> Self {
        let columns = table.columns.values().map(|column| Column::new(column.cell)).collect();
        Self { schema: super::schema_of(table), columns, rows: Int64Builder::with_capacity(BATCH_ROWS), length: 0 }
    }

    pub(super) fn is_full(&self) -> bool {
        self.length >= BATCH_ROWS
    }

    /// Adds a row: for each column its cell and, for text, the text.
    pub(super) fn push<'a>(&mut self, row: RowId, cells: impl Iterator<Item = (Cell, &'a str)>) {
        for (column, (cell, text)) in self.columns.iter_mut().zip(cells) {
            column.push(cell, text);
        }
        self.rows.append_value(row.0);
        self.length += 1;
    }

    /// The batch so far; `None` if it has no row.
    pub(super) fn finish(&mut self) -> Option<RecordBatch> {
        if self.length == 0 {
            return None;
        }
        self.length = 0;
        let mut arrays: Vec<ArrayRef> = self.columns.iter_mut().map(Column::finish).collect();
        arrays.push(Arc::new(self.rows.finish()));
        Some(RecordBatch::try_new(Arc::clone(&self.schema), arrays).expect("each row was added to every column"))
    }
}

impl Column {
    fn new(cell: CellType) -> Self {
        match cell {
            CellType::Text => Self::Text(StringBuilder::with_capacity(BATCH_ROWS, BATCH_ROWS * 8)),
            CellType::Integer => Self::Integer(Int64Builder::with_capacity(BATCH_ROWS)),
            CellType::Number => Self::Number(Float64Builder::with_capacity(BATCH_ROWS)),
            CellType::Boolean => Self::Boolean(BooleanBuilder::with_capacity(BATCH_ROWS)),
            CellType::Date => Self::Date(Date32Builder::with_capacity(BATCH_ROWS)),
            CellType::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::with_capacity(BATCH_ROWS)),
        }
    }

    fn push(&mut self, cell: Cell, text: &str) {
        match (self, cell) {
            (Self::Text(builder), Cell::Text) => builder.append_value(text),
            (Self::Integer(builder), Cell::Integer(value)) => builder.append_value(value),
            (Self::Number(builder), Cell::Number(value)) => builder.append_value(value),
            (Self::Boolean(builder), Cell::Boolean(value)) => builder.append_value(value),
            (Self::Date(builder), Cell::Date(value)) => builder.append_value(value),
            (Self::Timestamp(builder), Cell::Timestamp(value)) => builder.append_value(value),
            (Self::Text(builder), _) => builder.append_null(),
            (Self::Integer(builder), _) => builder.append_null(),
            (Self::Number(builder), _) => builder.append_null(),
            (Self::Boolean(builder), _) => builder.append_null(),
            (Self::Date(builder), _) => builder.append_null(),
            (Self::Timestamp(builder), _) => builder.append_null(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Text(builder) => Arc::new(builder.finish()),
            Self::Integer(builder) => Arc::new(builder.finish()),
            Self::Number(builder) => Arc::new(builder.finish()),
            Self::Boolean(builder) => Arc::new(builder.finish()),
            Self::Date(builder) => Arc::new(builder.finish()),
            Self::Timestamp(builder) => Arc::new(builder.finish()),
        }
    }
}
