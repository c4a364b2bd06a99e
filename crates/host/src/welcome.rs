//! What `chatify serve --welcome` prints: the first minute of a newcomer.

use crate::auth::{self, key::Key};
use crate::config::Config;
use chatify_building_blocks::clock::Clock;
use chatify_domain::SenderId;
use std::io::Write;
use std::net::SocketAddr;

/// Prints where the server is and what to try, with tokens for two people. Tokens are secrets: this goes to whoever asked for it on the command line,
/// never to the log.
///
/// # Errors
/// When no tokens can be made (their key is held elsewhere) or the output is closed.
pub fn print(config: &Config, address: SocketAddr, key: &Key, clock: &dyn Clock) -> anyhow::Result<()> {
    let host = if address.ip().is_loopback() || address.ip().is_unspecified() {
        format!("localhost:{}", address.port())
    } else {
        address.to_string()
    };
    let base = format!("http://{host}");
    let token = |name: &str| {
        let user = SenderId::parse(name)?;
        anyhow::Ok(auth::issue(config, key, &user, config.auth.token_ttl, clock)?)
    };
    let (alice, bob) = (token("alice")?, token("bob")?);
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nChatify is running on {base}; its data is in {}.\n", config.server.data_dir.display())?;
    if config.playground() {
        writeln!(out, "Chat as two people, cut a connection, watch it resume:\n  {base}/#alice={alice}&bob={bob}\n")?;
    }
    writeln!(out, "Follow a channel from another terminal:")?;
    writeln!(out, "  export TOKEN={alice}")?;
    writeln!(out, "  curl -N -H \"Authorization: Bearer $TOKEN\" {base}/api/scopes/Channel/general/events\n")?;
    writeln!(out, "Say something in it:")?;
    writeln!(out, "  curl -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: application/json' \\")?;
    writeln!(out, "    -d '{{\"text\":\"hello\"}}' {base}/api/scopes/Channel/general/messages\n")?;
    writeln!(out, "The API is described at {base}/docs. Ctrl-C ends the server; what was accepted stays.\n")?;
    out.flush()?;
    Ok(())
}
