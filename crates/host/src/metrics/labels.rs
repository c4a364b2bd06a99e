//! The values that labels may have.

/// Declares a label's values: an enum with `ALL` and `as_str`.
macro_rules! label {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Every value, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The label's value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

label! {
    /// How somebody is connected.
    Transport {
        /// The hub.
        WebSocket = "websocket",
        /// Server-Sent Events.
        EventStream = "event_stream",
    }
}

label! {
    /// A part of a message's way.
    Stage {
        /// From the log's acceptance to the disk's.
        Durable = "durable",
        /// From its place in the log to the hub.
        FanOut = "fan_out",
        /// From its place in the log to the sockets.
        Socket = "socket",
    }
}

label! {
    /// Why something did not get into an outbox.
    Shed {
        /// A ping was dropped: what waits already says that the server lives.
        Ping = "ping",
        /// The connection was too slow; it is closed and resumes.
        SlowConsumer = "slow_consumer",
    }
}

label! {
    /// Why a connection ended.
    Closed {
        /// The client closed it.
        ClientLeft = "client_left",
        /// Its socket broke or ended.
        ClientGone = "client_gone",
        /// The client was silent for too long.
        ClientTimeout = "client_timeout",
        /// The client broke the protocol.
        Protocol = "protocol",
        /// The client sent more than a frame may hold.
        TooLarge = "too_large",
        /// The client did not read fast enough.
        SlowConsumer = "slow_consumer",
        /// Its token ended.
        TokenExpired = "token_expired",
        /// The server is ending.
        Draining = "draining",
        /// The server fell behind the log.
        Interrupted = "interrupted",
        /// The server made a mistake: its task panicked.
        ServerError = "server_error",
    }
}
