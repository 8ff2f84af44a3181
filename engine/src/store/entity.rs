//! Stored rows as SeaORM entities, for reads that are not hot.
//!
//! Used by `view`, `work` and `open`. Rows stay in this folder: domain types and wire types are
//! others. Hot statements (claim, finish, advance) are SQL of their own, over the same columns.

/// A run.
pub(super) mod run {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "run")]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) tenant: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) run: String,
        pub(crate) dag: String,
        pub(crate) dag_version: String,
        pub(crate) kind: String,
        pub(crate) state: String,
        pub(crate) seed: i64,
        pub(crate) params: String,
        pub(crate) tenant_params: String,
        pub(crate) logical_time: i64,
        pub(crate) interval_start: Option<i64>,
        pub(crate) interval_end: Option<i64>,
        pub(crate) parent_run: Option<String>,
        pub(crate) created_at: i64,
        pub(crate) started_at: Option<i64>,
        pub(crate) finished_at: Option<i64>,
        pub(crate) faults: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A task instance.
pub(super) mod task_instance {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "task_instance")]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) tenant: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) run: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) task: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) element: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) generation: i64,
        pub(crate) current: bool,
        pub(crate) ordinal: i64,
        pub(crate) state: String,
        pub(crate) epoch: i64,
        pub(crate) attempts: i64,
        pub(crate) started_at: Option<i64>,
        pub(crate) finished_at: Option<i64>,
        pub(crate) outputs: Option<String>,
        pub(crate) reason: Option<String>,
        pub(crate) item: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A published artifact.
pub(super) mod artifact {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "artifact")]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) tenant: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) run: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) task: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) element: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) generation: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) name: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) epoch: i64,
        pub(crate) key: String,
        pub(crate) digest: String,
        pub(crate) bytes: i64,
        pub(crate) row_count: Option<i64>,
        pub(crate) schema_digest: Option<String>,
        pub(crate) linked_from: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A document that a run is pinned to.
pub(super) mod run_document {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "run_document")]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) tenant: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) run: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) task: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) element: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) param: String,
        pub(crate) path: String,
        pub(crate) digest: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {
        #[sea_orm(
            belongs_to = "super::document::Entity",
            from = "Column::Digest",
            to = "super::document::Column::Digest"
        )]
        Document,
    }

    impl Related<super::document::Entity> for Entity {
        fn to() -> RelationDef {
            Relation::Document.def()
        }
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// A document's text, by digest.
pub(super) mod document {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "document")]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) digest: String,
        pub(crate) content: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
