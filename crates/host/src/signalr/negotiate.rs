//! `POST /hubs/chat/negotiate`: tells a client which transports there are. Stateless: nothing is remembered, so any pod may answer it and any other may
//! take the WebSocket.

use chatify_building_blocks::random::Random;
use serde::Serialize;

/// The answer, in the version that the client asked for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NegotiateResponse {
    negotiate_version: u8,
    connection_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_token: Option<String>,
    available_transports: [Transport; 1],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Transport {
    transport: &'static str,
    transfer_formats: [&'static str; 2],
}

/// Answers version 1 to a client that knows it, version 0 to every other.
#[must_use]
pub fn negotiate(asked: Option<u32>, random: &dyn Random) -> NegotiateResponse {
    let id = || format!("{:032x}", random.u128());
    let version = u8::from(asked.unwrap_or(0) >= 1);
    NegotiateResponse {
        negotiate_version: version,
        connection_id: id(),
        connection_token: (version == 1).then(id),
        available_transports: [Transport { transport: "WebSockets", transfer_formats: ["Text", "Binary"] }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatify_building_blocks::random::SeededRandom;

    #[test]
    fn the_version_is_the_lower_of_both() {
        for (asked, version) in [(None, 0), (Some(0), 0), (Some(1), 1), (Some(7), 1)] {
            let answer = serde_json::to_value(negotiate(asked, &SeededRandom::new(1))).expect("serialisable");
            assert_eq!(answer["negotiateVersion"], version);
            assert_eq!(answer.get("connectionToken").is_some(), version == 1);
        }
    }
}
