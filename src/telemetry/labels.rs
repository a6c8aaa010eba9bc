//! The closed sets that labels of metrics take their values from, but for those that have a meaning elsewhere.

/// A closed set of label values.
macro_rules! label_set {
    ($(#[$doc:meta])* $set:ident { $($(#[$value_doc:meta])* $value:ident = $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $set { $($(#[$value_doc])* $value,)+ }

        impl $set {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$value,)+];

            /// Label value.
            pub fn name(self) -> &'static str {
                match self { $(Self::$value => $label,)+ }
            }
        }
    };
}

label_set! {
    /// `state` of `pgsluice_clients`.
    ClientState {
        /// From accept to the end of authentication.
        Login = "login",
        /// Has nothing under way.
        Idle = "idle",
        /// Has a statement or a transaction under way.
        Active = "active",
        /// Waits for a server connection.
        Waiting = "waiting",
    }
}

label_set! {
    /// `outcome` of `pgsluice_logins_total`.
    LoginOutcome {
        /// The client is in.
        Ok = "ok",
        /// It did not prove who it is.
        Failed = "failed",
        /// No rule lets it in.
        Rejected = "rejected",
        /// Its address has failed too often.
        Throttled = "throttled",
        /// There are as many clients as there may be.
        TooMany = "too_many",
        /// Too many were logging in, and it was the oldest.
        CrowdedOut = "crowded_out",
        /// It took too long.
        Timeout = "timeout",
        /// It did not speak the protocol, or asked for what is not there.
        Invalid = "invalid",
        /// The servers could not be reached, or refused it.
        Unavailable = "unavailable",
        /// It hung up.
        Gone = "gone",
    }
}

label_set! {
    /// `cause` of `pgsluice_clients_cut_total`.
    CutCause {
        /// Idle for longer than `limits.idle_session_timeout`.
        IdleSession = "idle_session_timeout",
        /// Idle in a transaction for longer than `limits.idle_in_transaction_session_timeout`.
        IdleInTransaction = "idle_in_transaction_session_timeout",
        /// KILL.
        Killed = "kill",
        /// The process ends, and the client was idle or came to be.
        Shutdown = "shutdown",
        /// The process ends, and the client's transaction did not in `limits.drain_timeout`.
        DrainTimeout = "drain_timeout",
        /// It does not speak the protocol.
        Protocol = "protocol",
        /// Its server connection was lost with state of the client's in it, or could not be made what it has to be.
        Server = "server",
    }
}

label_set! {
    /// `cause` of `pgsluice_accept_failures_total`.
    AcceptFailure {
        /// No descriptor is left: of the process, or of the machine.
        Descriptors = "descriptors",
        /// No memory is left for it.
        Memory = "memory",
        /// The connection itself was gone already, or a firewall is against it.
        Connection = "connection",
        /// Anything else.
        Other = "other",
    }
}

label_set! {
    /// `cause` of `pgsluice_tls_handshake_failures_total`.
    HandshakeFailure {
        /// The client hung up in the middle of it.
        Gone = "gone",
        /// The client did not accept this side: its certificate above all.
        RefusedByClient = "refused_by_client",
        /// The client's certificate is not valid, or of none of the authorities.
        Certificate = "certificate",
        /// There is no version, cipher suite or protocol that both sides know.
        NothingInCommon = "nothing_in_common",
        /// `listen.tls = "off"`, and the client began with a handshake.
        NotOffered = "not_offered",
        /// What came is not TLS.
        Invalid = "invalid",
    }
}

label_set! {
    /// `state` of `pgsluice_server_connections`.
    ServerState {
        /// In the pool.
        Idle = "idle",
        /// Serves a client.
        Active = "active",
    }
}

label_set! {
    /// `cause` of `pgsluice_pinned_clients`.
    PinCause {
        /// A temporary table, view or sequence.
        Temporary = "temporary",
        /// A cursor WITH HOLD.
        HoldCursor = "hold_cursor",
        /// LISTEN.
        Listen = "listen",
        /// A session-level advisory lock.
        AdvisoryLock = "advisory_lock",
        /// SQL-level PREPARE.
        Prepare = "prepare",
        /// LOAD, and what else cannot be carried over.
        Library = "library",
    }
}

label_set! {
    /// `outcome` of `pgsluice_causal_waits_total`.
    CausalOutcome {
        /// A replica caught up in time.
        CaughtUp = "caught_up",
        /// None did: the read went to the primary.
        Primary = "primary",
    }
}

label_set! {
    /// `outcome` of `pgsluice_config_reloads_total`.
    ReloadOutcome {
        /// The new config is in force.
        Applied = "applied",
        /// It was refused; the old one stays.
        Refused = "refused",
    }
}

label_set! {
    /// `outcome` of `pgsluice_monitor_polls_total`.
    PollOutcome {
        /// Answered in time.
        Answered = "answered",
        /// Not.
        Failed = "failed",
    }
}
