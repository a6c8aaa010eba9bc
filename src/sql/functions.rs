//! What is known of PostgreSQL's own functions and views beyond their volatility.
//!
//! `pg_proc` says which functions may write; it does not say which of them are harmless on a standby
//! all the same, nor which ask about one server, so that the answer depends on where they run. The lists
//! follow [`pg_proc.dat`](https://github.com/postgres/postgres/blob/REL_18_STABLE/src/include/catalog/pg_proc.dat)
//! of PostgreSQL 14 to 18. A VOLATILE function that is in no list counts as one that writes.

use super::statement::{Name, Pin, PrimaryCause};

/// What the lists say of a function in `pg_catalog`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Builtin {
    /// Gives what it should on any server, although it may be VOLATILE.
    Harmless,
    /// Belongs on the primary.
    Primary(PrimaryCause),
}

/// Whether the name, as written, may mean a function or relation of `pg_catalog`.
pub(super) fn may_be_builtin(name: &Name) -> bool {
    name.schema.as_deref().is_none_or(|schema| schema == "pg_catalog")
}

/// What the lists say of `pg_catalog.<name>`; `None` leaves it to its volatility.
pub(super) fn builtin(name: &str) -> Option<Builtin> {
    if is_harmless(name) {
        return Some(Builtin::Harmless);
    }
    let cause = if is_advisory_lock(name) {
        PrimaryCause::AdvisoryLock
    } else if matches!(name, "currval" | "lastval") {
        PrimaryCause::SequenceState
    } else if matches!(name, "setseed" | "dblink_connect" | "dblink_connect_u" | "dblink_disconnect") {
        PrimaryCause::SessionState
    } else if is_writer(name) {
        PrimaryCause::VolatileFunction
    } else if is_about_one_server(name) {
        PrimaryCause::ServerFunction
    } else {
        return None;
    };
    Some(Builtin::Primary(cause))
}

/// State that a call leaves in the server's session.
pub(super) fn pin(name: &str) -> Option<Pin> {
    match name {
        "pg_advisory_lock" | "pg_advisory_lock_shared" | "pg_try_advisory_lock" | "pg_try_advisory_lock_shared" => {
            Some(Pin::AdvisoryLock)
        }
        "setseed" | "dblink_connect" | "dblink_connect_u" | "pg_replication_origin_session_setup" => Some(Pin::Library),
        _ => None,
    }
}

/// Spelt like a function call, but syntax: `pg_proc` has no such entry.
pub(super) const SYNTAX: &[&str] = &[
    "all",
    "any",
    "array",
    "cast",
    "coalesce",
    "collation",
    "cube",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "exists",
    "extract",
    "greatest",
    "grouping",
    "json",
    "json_array",
    "json_arrayagg",
    "json_exists",
    "json_object",
    "json_objectagg",
    "json_query",
    "json_scalar",
    "json_serialize",
    "json_table",
    "json_value",
    "least",
    "localtime",
    "localtimestamp",
    "merge_action",
    "normalize",
    "nullif",
    "overlay",
    "position",
    "rollup",
    "row",
    "session_user",
    "some",
    "substring",
    "system_user",
    "treat",
    "trim",
    "unnest",
    "user",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];

/// Whether an unqualified call by this name is syntax (`SYNTAX` is sorted).
pub(super) fn is_syntax(name: &str) -> bool {
    SYNTAX.binary_search(&name).is_ok()
}

/// Whether PostgreSQL's own function of this name may be an aggregate.
pub(super) fn is_aggregate(name: &str) -> bool {
    name.starts_with("regr_")
        || name.starts_with("covar_")
        || name.starts_with("stddev")
        || name.starts_with("var_")
        || name.starts_with("percentile_")
        || name.starts_with("range_") && name.ends_with("_agg")
        || name.starts_with("json") && name.contains("agg")
        || matches!(
            name,
            "any_value"
                | "array_agg"
                | "avg"
                | "bit_and"
                | "bit_or"
                | "bit_xor"
                | "bool_and"
                | "bool_or"
                | "corr"
                | "count"
                | "cume_dist"
                | "dense_rank"
                | "every"
                | "grouping"
                | "max"
                | "min"
                | "mode"
                | "percent_rank"
                | "range_agg"
                | "rank"
                | "string_agg"
                | "sum"
                | "variance"
                | "xmlagg"
        )
}

/// Whether PostgreSQL's own function of this name is for windows alone.
pub(super) fn is_window(name: &str) -> bool {
    matches!(
        name,
        "cume_dist"
            | "dense_rank"
            | "first_value"
            | "lag"
            | "last_value"
            | "lead"
            | "nth_value"
            | "ntile"
            | "percent_rank"
            | "rank"
            | "row_number"
    )
}

/// Functions that `pgsluice shards init` has installed, which tell where rows belong, and read none of them.
pub(super) fn tells_of_placement(name: &Name) -> bool {
    name.schema.as_deref() == Some("pgsluice")
        && matches!(
            &*name.name,
            "bucket"
                | "digest_bucket"
                | "framed"
                | "key_bucket"
                | "key_digest"
                | "shard_key"
                | "shard_of"
                | "shard_of_key"
        )
}

/// STABLE functions of PostgreSQL's own that depend on nothing but the session's settings.
pub(super) fn is_even_by_settings(name: &str) -> bool {
    matches!(
        name,
        "array_to_json"
            | "array_to_string"
            | "concat"
            | "concat_ws"
            | "date_part"
            | "date_trunc"
            | "extract"
            | "format"
            | "json_agg"
            | "json_build_array"
            | "json_build_object"
            | "json_object_agg"
            | "jsonb_agg"
            | "jsonb_build_array"
            | "jsonb_build_object"
            | "jsonb_object_agg"
            | "length"
            | "make_timestamptz"
            | "quote_literal"
            | "quote_nullable"
            | "row_to_json"
            | "timezone"
            | "to_char"
            | "to_date"
            | "to_json"
            | "to_jsonb"
            | "to_number"
            | "to_timestamp"
    )
}

/// Whether what looks like a function, and is syntax, depends on when, where or by whom it is called.
pub(super) fn tells_the_time_or_place(name: &str) -> bool {
    name.starts_with("current_")
        || matches!(name, "localtime" | "localtimestamp" | "session_user" | "system_user" | "user")
}

/// Whether a function of the system runs the query in its text argument, or reads a table that this names.
pub(super) fn runs_a_text(name: &str) -> bool {
    matches!(
        name,
        "query_to_xml"
            | "query_to_xmlschema"
            | "query_to_xml_and_xmlschema"
            | "ts_stat"
            | "ts_rewrite"
            | "table_to_xml"
            | "table_to_xml_and_xmlschema"
            | "schema_to_xml"
            | "schema_to_xml_and_xmlschema"
            | "database_to_xml"
            | "database_to_xml_and_xmlschema"
    )
}

fn is_harmless(name: &str) -> bool {
    matches!(
        name,
        // The clock and chance.
        "now" | "statement_timestamp" | "transaction_timestamp" | "clock_timestamp" | "timeofday"
        | "random" | "random_normal" | "gen_random_uuid" | "uuidv4" | "uuidv7"
        | "pg_sleep" | "pg_sleep_for" | "pg_sleep_until"
        // Sizes: a standby's files are the primary's.
        | "pg_relation_size" | "pg_table_size" | "pg_indexes_size" | "pg_total_relation_size"
        | "pg_database_size" | "pg_tablespace_size" | "pg_column_size"
        // What the catalog says.
        | "pg_partition_tree" | "pg_partition_ancestors" | "pg_collation_actual_version"
        | "pg_database_collation_actual_version" | "pg_sequence_last_value" | "pg_jit_available"
        | "pg_get_multixact_members" | "pg_xact_commit_timestamp" | "pg_xact_commit_timestamp_origin"
        // The session and its statement. `set_config` is judged by its third argument.
        | "current_query" | "set_config" | "current_setting"
        // Large objects, read.
        | "lo_get"
    )
}

fn is_advisory_lock(name: &str) -> bool {
    name.starts_with("pg_advisory_") || name.starts_with("pg_try_advisory_")
}

fn is_writer(name: &str) -> bool {
    matches!(
        name,
        "nextval" | "setval" | "pg_notify" | "txid_current" | "pg_current_xact_id" | "pg_export_snapshot"
        | "pg_logical_emit_message" | "pg_create_restore_point" | "loread" | "lowrite" | "pg_nextoid"
        | "pg_import_system_collations" | "pg_extension_config_dump" | "gin_clean_pending_list"
        | "brin_summarize_new_values" | "brin_summarize_range" | "brin_desummarize_range"
        | "pg_drop_replication_slot" | "pg_replication_slot_advance" | "pg_sync_replication_slots"
        // They run SQL that is given to them as text.
        | "query_to_xml" | "query_to_xmlschema" | "query_to_xml_and_xmlschema" | "cursor_to_xml"
        | "cursor_to_xmlschema" | "ts_stat"
    ) || name.starts_with("lo_")
        || (name.starts_with("pg_create_") && name.ends_with("_slot"))
        || (name.starts_with("pg_copy_") && name.ends_with("_slot"))
        || name.starts_with("pg_logical_slot_")
        || name.starts_with("pg_restore_")
        || (name.starts_with("pg_clear_") && name.ends_with("_stats"))
        || name.starts_with("binary_upgrade_")
}

fn is_about_one_server(name: &str) -> bool {
    if name.starts_with("pg_wal_lsn_") {
        return false;
    }
    matches!(
        name,
        "pg_is_in_recovery"
            | "pg_is_wal_replay_paused"
            | "pg_get_wal_replay_pause_state"
            | "pg_backend_pid"
            | "pg_terminate_backend"
            | "pg_cancel_backend"
            | "pg_reload_conf"
            | "pg_rotate_logfile"
            | "pg_rotate_logfile_old"
            | "pg_current_logfile"
            | "pg_switch_wal"
            | "pg_promote"
            | "pg_backup_start"
            | "pg_backup_stop"
            | "pg_start_backup"
            | "pg_stop_backup"
            | "pg_is_in_backup"
            | "pg_backup_start_time"
            | "pg_conf_load_time"
            | "pg_postmaster_start_time"
            | "pg_blocking_pids"
            | "pg_safe_snapshot_blocking_pids"
            | "pg_isolation_test_session_is_blocked"
            | "pg_lock_status"
            | "pg_prepared_xact"
            | "pg_prepared_statement"
            | "pg_cursor"
            | "pg_listening_channels"
            | "pg_notification_queue_usage"
            | "pg_hba_file_rules"
            | "pg_ident_file_mappings"
            | "pg_show_all_file_settings"
            | "pg_get_backend_memory_contexts"
            | "pg_get_process_memory_contexts"
            | "pg_get_shmem_allocations"
            | "pg_get_shmem_allocations_numa"
            | "pg_get_aios"
            | "pg_get_loaded_modules"
            | "pg_get_replication_slots"
            | "pg_get_wal_resource_managers"
            | "pg_get_wal_summarizer_state"
            | "pg_available_wal_summaries"
            | "pg_show_replication_origin_status"
            | "pg_last_committed_xact"
            | "pg_walfile_name"
            | "pg_walfile_name_offset"
            | "pg_split_walfile_name"
            | "pg_current_snapshot"
            | "txid_current_snapshot"
            | "pg_config"
            | "pg_stat_statements"
            | "pg_stat_statements_reset"
            | "pg_stat_statements_info"
    ) || ["pg_stat_", "pg_statio_", "pg_last_wal_", "pg_last_xact_", "pg_current_wal_", "pg_wal_", "pg_ls_"]
        .iter()
        .chain(&["pg_read_", "pg_control_", "pg_log_", "pg_replication_origin_", "inet_server_", "inet_client_"])
        .any(|prefix| name.starts_with(prefix))
}

/// Whether the relation tells of one server, or of one server's session.
pub(super) fn is_server_relation(name: &str) -> bool {
    matches!(
        name,
        "pg_locks"
            | "pg_replication_slots"
            | "pg_replication_origin_status"
            | "pg_prepared_statements"
            | "pg_cursors"
            | "pg_hba_file_rules"
            | "pg_ident_file_mappings"
            | "pg_file_settings"
            | "pg_backend_memory_contexts"
            | "pg_shmem_allocations"
            | "pg_shmem_allocations_numa"
            | "pg_prepared_xacts"
            | "pg_aios"
            | "pg_wait_events"
            | "pg_config"
            | "pg_dsm_registry_allocations"
            | "pg_buffercache"
    ) || name.starts_with("pg_stat_")
        || name.starts_with("pg_statio_")
}

/// A session's own temporary schema, under either of its names.
pub(super) fn is_temporary_schema(schema: Option<&str>) -> bool {
    schema.is_some_and(|s| s == "pg_temp" || s.starts_with("pg_temp_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_syntax_list_is_sorted() {
        assert!(SYNTAX.is_sorted());
    }

    #[test]
    fn lists() {
        use PrimaryCause::*;
        let cases = [
            ("random", Some(Builtin::Harmless)),
            ("pg_sleep", Some(Builtin::Harmless)),
            ("lo_get", Some(Builtin::Harmless)),
            ("lo_import", Some(Builtin::Primary(VolatileFunction))),
            ("pg_wal_lsn_diff", None),
            ("pg_wal_replay_pause", Some(Builtin::Primary(ServerFunction))),
            ("pg_create_logical_replication_slot", Some(Builtin::Primary(VolatileFunction))),
            ("pg_advisory_xact_lock", Some(Builtin::Primary(AdvisoryLock))),
            ("lastval", Some(Builtin::Primary(SequenceState))),
            ("setseed", Some(Builtin::Primary(SessionState))),
            ("pg_relation_filenode", None),
            ("lower", None),
        ];
        for (name, expected) in cases {
            assert_eq!(builtin(name), expected, "{name}");
        }
        assert_eq!(pin("pg_advisory_xact_lock"), None);
        assert_eq!(pin("pg_try_advisory_lock_shared"), Some(Pin::AdvisoryLock));
        assert!(!is_server_relation("pg_statistic_ext") && !is_server_relation("pg_stats"));
    }
}
