//! A suite meets a panel: every expectation becomes expressions over the panel's columns, or a reason why it can not.
//!
//! Called by `validate` with the panel's schema, before a row is read. What does not fit (a column that is not
//! there, a bound of the wrong type) is the finding of that expectation alone; the others are judged all the same.

use chrono::{DateTime, Days};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::functions::expr_fn::isnan;
use datafusion::functions_aggregate::expr_fn::{avg, count, count_distinct, max, min, stddev, sum};
use datafusion::logical_expr::{Operator, binary_expr, cast, lit, not, when};
use datafusion::prelude::{Expr, SessionContext};
use serde_json::Value;

use super::suite::{Bounds, Expectation, Figure, Rule};

/// How an expectation is judged on this panel.
#[derive(Debug)]
pub(super) enum Test {
    /// By the schema alone.
    Known {
        /// Whether it is met.
        success: bool,
        /// What there is.
        observed: Value,
    },
    /// Row by row.
    Rows(RowTest),
    /// By one figure.
    Table {
        /// An aggregate.
        figure: Expr,
        /// What it may be.
        range: Range,
    },
}

/// Boolean expressions over a row; none of them is ever null.
#[derive(Debug)]
pub(super) struct RowTest {
    /// Whether the expectation is about the row.
    pub(super) applies: Expr,
    /// Whether it applies, and there is no value to judge.
    pub(super) missing: Expr,
    /// Whether it applies, and the value breaks it. For uniqueness: whether it applies and there is a value, because
    /// only all rows together tell the rest.
    pub(super) unexpected: Expr,
    /// Whether rows are compared with each other.
    pub(super) unique: bool,
}

/// Bounds of one type.
#[derive(Debug, Default)]
pub(super) struct Range {
    min: Option<(ScalarValue, bool)>,
    max: Option<(ScalarValue, bool)>,
}

impl Range {
    /// Whether a figure is within; a figure of no values is not.
    pub(super) fn contains(&self, figure: &ScalarValue) -> bool {
        let number = match figure {
            ScalarValue::Int64(Some(count)) => &ScalarValue::Float64(Some(*count as f64)),
            figure => figure,
        };
        let above = |(min, strict): &(ScalarValue, bool)| number > min || (!strict && number == min);
        let below = |(max, strict): &(ScalarValue, bool)| number < max || (!strict && number == max);
        !number.is_null() && self.min.as_ref().is_none_or(above) && self.max.as_ref().is_none_or(below)
    }

    fn broken_by(&self, value: &Expr) -> Expr {
        let end = |end: &Option<(ScalarValue, bool)>, strict: Operator, loose: Operator| {
            let operator = |is_strict: bool| if is_strict { strict } else { loose };
            end.as_ref()
                .map(|(bound, is_strict)| not(binary_expr(value.clone(), operator(*is_strict), lit(bound.clone()))))
        };
        let ends = [end(&self.min, Operator::Gt, Operator::GtEq), end(&self.max, Operator::Lt, Operator::LtEq)];
        ends.into_iter().flatten().reduce(Expr::or).unwrap_or_else(|| lit(false))
    }
}

/// What expectations are bound to.
pub(super) struct Binder<'a> {
    /// Plans expressions.
    pub(super) session: &'a SessionContext,
    /// The panel's columns.
    pub(super) schema: &'a DFSchema,
    /// The moment the run is about, RFC 3339.
    pub(super) logical_time: &'a str,
}

impl Binder<'_> {
    /// The expectation as expressions.
    ///
    /// # Errors
    /// Why it can not be judged on this panel.
    pub(super) fn bind(&self, expectation: &Expectation) -> Result<Test, String> {
        if expectation.rule == Rule::Exists {
            let success = expectation.columns.iter().all(|name| self.data_type(name).is_ok());
            return Ok(Test::Known { success, observed: Value::Null });
        }
        let columns: Vec<Operand> =
            expectation.columns.iter().map(|name| self.operand(name)).collect::<Result<_, _>>()?;
        let applies = self.condition(expectation)?;
        match (&expectation.rule, columns.first()) {
            (Rule::RowCount(bounds), _) => {
                let range = self.range(bounds, &Operand::number())?;
                Ok(Test::Table { figure: count_where(applies), range })
            }
            (Rule::Figure(figure, bounds), Some(column)) => self.figure(*figure, bounds, column, &applies),
            (Rule::OfType(name), Some(column)) => {
                let observed = type_name(&column.data_type);
                Ok(Test::Known { success: *name == observed, observed: Value::from(observed) })
            }
            (rule, Some(column)) => self.rows(rule, column, &columns, applies).map(Test::Rows),
            (_, None) => Err("it names no column".to_owned()),
        }
    }

    fn rows(&self, rule: &Rule, column: &Operand, all: &[Operand], applies: Expr) -> Result<RowTest, String> {
        let no_value = all.iter().map(Operand::missing).reduce(Expr::and).unwrap_or_else(|| lit(false));
        let broken = match rule {
            Rule::NotNull => no_value.clone(),
            Rule::Unique => lit(true),
            Rule::Between(bounds) => self.range(bounds, column)?.broken_by(&column.value()),
            Rule::InSet(values) => {
                let values: Vec<Expr> =
                    values.iter().map(|value| column.literal(value).map(lit)).collect::<Result<_, _>>()?;
                column.value().in_list(values, true)
            }
            Rule::MatchRegex(pattern) if column.is_text() => {
                binary_expr(column.value(), Operator::RegexNotMatch, lit(pattern.as_str()))
            }
            Rule::MatchRegex(_) => return Err(format!("column {:?} is {}, not text", column.name, column.type_name())),
            Rule::Exists | Rule::OfType(_) | Rule::RowCount(_) | Rule::Figure(..) => lit(false),
        };
        // A missing value is what `NotNull` is about; for all others it is nothing to judge.
        let (missing, judged) = match rule {
            Rule::NotNull => (lit(false), applies.clone()),
            _ => (applies.clone().and(no_value.clone()), applies.clone().and(not(no_value))),
        };
        let unexpected = judged.and(broken).is_true();
        Ok(RowTest { applies, missing, unexpected, unique: *rule == Rule::Unique })
    }

    fn figure(&self, figure: Figure, bounds: &Bounds, column: &Operand, applies: &Expr) -> Result<Test, String> {
        let judged = applies.clone().and(not(column.missing()));
        if matches!(figure, Figure::Mean | Figure::Sum | Figure::Stdev) && !column.data_type.is_numeric() {
            return Err(format!("column {:?} is {}, not a number", column.name, column.type_name()));
        }
        let values = || only(judged.clone(), column.value());
        let (figure, of) = match figure {
            Figure::Mean => (avg(values()?), Operand::number()),
            Figure::Sum => (sum(values()?), Operand::number()),
            Figure::Stdev => (stddev(values()?), Operand::number()),
            Figure::Distinct => (count_distinct(values()?), Operand::number()),
            Figure::Min => (min(values()?), column.clone()),
            Figure::Max => (max(values()?), column.clone()),
            Figure::Present => {
                let share = when(column.missing(), lit(0.0)).otherwise(lit(1.0)).map_err(|error| error.to_string())?;
                (avg(only(applies.clone(), share)?), Operand::number())
            }
        };
        Ok(Test::Table { figure, range: self.range(bounds, &of)? })
    }

    fn range(&self, bounds: &Bounds, of: &Operand) -> Result<Range, String> {
        let end = |value: &Option<Value>, strict| match value {
            Some(value) => Ok(Some((of.literal(value)?, strict))),
            None => Ok::<_, String>(None),
        };
        let oldest = bounds.max_age_days.map(|days| self.days_before(days)).transpose()?;
        let min = bounds.min.clone().or(oldest);
        Ok(Range { min: end(&min, bounds.strict_min)?, max: end(&bounds.max, bounds.strict_max)? })
    }

    fn days_before(&self, days: i64) -> Result<Value, String> {
        let moment = DateTime::parse_from_rfc3339(self.logical_time)
            .map_err(|error| format!("the run's logical time {:?} is no moment: {error}", self.logical_time))?;
        let days = u64::try_from(days).map_err(|error| error.to_string())?;
        let date = moment.date_naive().checked_sub_days(Days::new(days));
        let date = date.ok_or_else(|| format!("{days} days before the run's logical time is no date"))?;
        Ok(Value::from(date.to_string()))
    }

    /// Whether an expectation is about a row: never null, and planned here, so that a mistake in its SQL is its own.
    fn condition(&self, expectation: &Expectation) -> Result<Expr, String> {
        let Some(sql) = &expectation.row_condition else {
            return Ok(lit(true));
        };
        let refuse = |error: datafusion::error::DataFusionError| format!("row_condition {sql:?}: {error}");
        let expression = self.session.parse_sql_expr(sql, self.schema).map_err(refuse)?.is_true();
        self.session.create_physical_expr(expression.clone(), self.schema).map_err(refuse)?;
        Ok(expression)
    }

    fn operand(&self, name: &str) -> Result<Operand, String> {
        Ok(Operand { name: name.to_owned(), data_type: self.data_type(name)? })
    }

    fn data_type(&self, name: &str) -> Result<DataType, String> {
        let arrow = self.schema.as_arrow();
        let names = || arrow.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        let found = arrow.field_with_name(name).map(|field| field.data_type().clone());
        found.map_err(|_| format!("the panel has no column {name:?}; there are: {}", names()))
    }
}

/// A column as it is compared: numbers of all types as 64-bit floats.
#[derive(Debug, Clone)]
struct Operand {
    name: String,
    data_type: DataType,
}

impl Operand {
    /// A figure that is a number whatever it is of.
    fn number() -> Self {
        Self { name: "of counts".to_owned(), data_type: DataType::Float64 }
    }

    fn column(&self) -> Expr {
        Expr::Column(Column::new_unqualified(&self.name))
    }

    fn value(&self) -> Expr {
        match &self.data_type {
            DataType::Float64 => self.column(),
            number if number.is_numeric() => cast(self.column(), DataType::Float64),
            _ => self.column(),
        }
    }

    fn missing(&self) -> Expr {
        let null = self.column().is_null();
        // NaN is what other tools write for null.
        if self.data_type.is_floating() { null.or(isnan(self.column()).is_true()) } else { null }
    }

    fn is_text(&self) -> bool {
        matches!(self.data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
    }

    fn type_name(&self) -> String {
        type_name(&self.data_type)
    }

    fn literal(&self, value: &Value) -> Result<ScalarValue, String> {
        let literal = match value {
            Value::Number(number) if self.data_type.is_numeric() => number.as_f64().map(ScalarValue::from),
            Value::Bool(flag) if self.data_type == DataType::Boolean => Some(ScalarValue::from(*flag)),
            Value::String(text) if self.is_text() => Some(ScalarValue::from(text.as_str())),
            Value::String(text) if self.data_type.is_temporal() => {
                ScalarValue::try_from_string(text.clone(), &self.data_type).ok()
            }
            _ => None,
        };
        let literal = literal.filter(|literal| !literal.is_null());
        literal
            .ok_or_else(|| format!("{value} can not be compared with {:?}, which is {}", self.name, self.type_name()))
    }
}

/// The number of rows for which `condition` is true.
pub(super) fn count_where(condition: Expr) -> Expr {
    count(Expr::Case(datafusion::logical_expr::Case::new(None, vec![(Box::new(condition), Box::new(lit(1)))], None)))
}

fn only(condition: Expr, value: Expr) -> Result<Expr, String> {
    when(condition, value).end().map_err(|error| error.to_string())
}

fn type_name(data_type: &DataType) -> String {
    data_type.to_string().to_lowercase()
}
