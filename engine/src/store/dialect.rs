//! The few places where SQLite and Postgres read different SQL.
//!
//! Used by every file of `store`; nothing outside asks which database it is.

use sea_orm::DbBackend;

use super::held::LOCK_ORDER;

/// A column of a [`rows`](Dialect::rows) source.
pub(super) type Column = (&'static str, Kind);

/// The SQL type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Int,
    Bool,
}

/// Which SQL the database reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// The dialect of a connection.
    pub(super) fn of(backend: DbBackend) -> Self {
        match backend {
            DbBackend::Postgres => Self::Postgres,
            _ => Self::Sqlite,
        }
    }

    /// Now, in microseconds since 1970, by the database's clock (on SQLite that is this machine's).
    pub(super) fn now(self) -> &'static str {
        match self {
            Self::Sqlite => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
            Self::Postgres => "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)",
        }
    }

    /// Leaves out rows that another claimer holds; SQLite has one writer, so there are none.
    pub(super) fn skip_locked(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => " FOR UPDATE SKIP LOCKED",
        }
    }

    /// Locks the rows of `alias` that nobody else holds.
    pub(super) fn lock_free(self, alias: &str) -> String {
        match self {
            Self::Sqlite => String::new(),
            Self::Postgres => format!(" FOR UPDATE OF {alias} SKIP LOCKED"),
        }
    }

    /// Locks the rows of `alias` until the end of the transaction.
    pub(super) fn lock(self, alias: &str) -> String {
        match self {
            Self::Sqlite => String::new(),
            Self::Postgres => format!(" FOR UPDATE OF {alias}"),
        }
    }

    /// Locks task instances `t` in the order of their keys. SQLite has one writer, and need not sort them.
    pub(super) fn lock_in_order(self) -> String {
        match self {
            Self::Sqlite => String::new(),
            Self::Postgres => format!(" ORDER BY {LOCK_ORDER}{}", self.lock("t")),
        }
    }

    /// A table `r` made of the JSON array of objects in parameter `$n`: any number of rows, one
    /// parameter, one round trip, one prepared statement.
    pub(super) fn rows(self, n: u8, columns: &[Column]) -> String {
        match self {
            Self::Sqlite => {
                let list: Vec<_> = columns.iter().map(|(name, _)| format!("value ->> '$.{name}' AS {name}")).collect();
                format!("(SELECT {} FROM jsonb_each(${n})) AS r", list.join(", "))
            }
            Self::Postgres => {
                let list: Vec<_> = columns.iter().map(|(name, kind)| format!("{name} {}", kind.postgres())).collect();
                // Read once, so not worth a tree: half the time of `jsonb`.
                format!("json_to_recordset(CAST(${n} AS json)) AS r({})", list.join(", "))
            }
        }
    }
}

impl Kind {
    fn postgres(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Int => "bigint",
            Self::Bool => "boolean",
        }
    }
}
