//! The scenarios as tests, two at a time: each starts several processes, and some measure time.

use super::Kind::{OwnPostgres, Postgres, Sqlite};
use super::{calls, chaos, crashes, network, races, storage};

/// `test: "F1" on Kind, a few seeds, scenario;`
macro_rules! scenarios {
    ($($test:ident: $name:literal on $kind:expr, $few:literal, $scenario:path;)+) => {
        $(#[test] fn $test() { chaos($name, $kind, $few, $scenario) })+
    };
}

scenarios! {
    f1_postgres: "F1" on Postgres, 1, crashes::f1_kill_in_mid_task;
    f1_sqlite: "F1" on Sqlite, 1, crashes::f1_kill_the_only_server;
    f2_postgres: "F2" on Postgres, 1, crashes::f2_kill_after_the_claim;
    f3_postgres: "F3" on Postgres, 1, crashes::f3_kill_after_the_put;
    f3_process_postgres: "F3" on Postgres, 1, crashes::f3_crash_after_the_put;
    f4_postgres: "F4" on Postgres, 1, network::f4_kill_before_the_answer;
    f5_postgres: "F5" on Postgres, 1, crashes::f5_kill_a_server_at_every_failpoint;
    f5_reaper_postgres: "F5" on Postgres, 1, crashes::f5_kill_the_reaper;
    f6_postgres: "F6" on Postgres, 2, crashes::f6_stop_past_the_lease;
    f7_postgres: "F7" on Postgres, 2, crashes::f7_two_schedulers;
    f8_postgres: "F8" on Postgres, 1, crashes::f8_two_workers_of_one_name;
    f9_postgres: "F9" on OwnPostgres, 1, network::f9_restarts;
    f10_postgres: "F10" on OwnPostgres, 1, network::f10_kill_the_database;
    f11_postgres: "F11" on Postgres, 1, network::f11_commits_get_lost;
    f11_calls_postgres: "F11" on Postgres, 1, calls::f11_every_call;
    f12_postgres: "F12" on Postgres, 1, network::f12_black_hole;
    f12_half_open_postgres: "F12" on Postgres, 1, network::f12_half_open;
    f12_bad_line_postgres: "F12" on Postgres, 1, network::f12_bad_line;
    f13_postgres: "F13" on Postgres, 1, races::f13_clients;
    f15_postgres: "F15" on Postgres, 1, storage::f15_artifacts;
    f15_sqlite: "F15" on Sqlite, 1, storage::f15_sqlite;
    f16_postgres: "F16" on Postgres, 1, storage::f16_object_store;
    f16_short_reads_postgres: "F16" on Postgres, 1, storage::f16_short_reads;
    f17_postgres: "F17" on Postgres, 1, storage::f17_kill_in_mid_put;
    f20_postgres: "F20" on Postgres, 1, races::f20_clocks;
    f21_postgres: "F21" on Postgres, 1, crashes::f21_poison;
    f21_quarantine_postgres: "F21" on Postgres, 1, crashes::f21_quarantine;
    f22_postgres: "F22" on Postgres, 1, crashes::f22_the_dag_changes;
    f24_locked_sqlite: "F24" on Sqlite, 1, storage::f24_locked;
    f24_two_servers_sqlite: "F24" on Sqlite, 1, storage::f24_two_servers;
    f25_fan_in_postgres: "F25" on Postgres, 1, races::f25_fan_in;
    f25_pairs_postgres: "F25" on Postgres, 1, races::f25_pairs;
    f28_postgres: "F28" on Postgres, 2, crashes::f28_drain;
    f28_sqlite: "F28" on Sqlite, 1, crashes::f28_drain_the_only_server;
    f29_postgres: "F29" on Postgres, 1, races::f29_storm;
}
