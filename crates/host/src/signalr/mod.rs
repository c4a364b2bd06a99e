//! The hub: the server's side of the SignalR hub protocol over WebSockets, by its public specification
//! (`HubProtocol.md` and `TransportProtocols.md` of dotnet/aspnetcore).
//!
//! Read [`session`] first (the life of a connection), then [`negotiate`] and [`handshake`] (its beginning), [`record`] with its two encodings
//! [`json`] and [`messagepack`], [`methods`] (what a client may invoke) and [`socket`] (the WebSocket below).

pub mod handshake;
pub mod json;
pub mod messagepack;
pub mod methods;
pub mod negotiate;
pub mod record;
pub mod routes;
pub mod session;
pub mod socket;
