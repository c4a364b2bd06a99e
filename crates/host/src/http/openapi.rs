//! The description of the API: what is the same for many paths. The paths describe themselves.

use super::dto::{FieldErrorDto, ProblemDto};
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{OpenApi as _, ToResponse};

/// Declares a response that is a problem document.
macro_rules! problem {
    ($($name:ident = $description:literal;)+) => {
        $(
            #[doc = $description]
            #[derive(ToResponse)]
            #[response(description = $description, content_type = "application/problem+json")]
            #[expect(dead_code, reason = "it stands for the document in the description only")]
            pub struct $name(ProblemDto);
        )+
    };
}

problem! {
    BadRequest = "Something in the request is not valid; `errors` names the fields.";
    Unauthenticated = "There is no valid token.";
    Forbidden = "The caller may not do this here.";
    NotFound = "There is no such thing.";
    Conflict = "The message id was used for another text.";
    TooLarge = "The body is larger than this server reads.";
    NotJson = "The body is not `application/json`.";
    TooOften = "Too often; come back after `Retry-After` seconds.";
    Unavailable = "Not now; with `outcome` `unknown`, repeat the send with the same message id.";
    TooLong = "The answer took too long. A send may or may not have been accepted.";
}

/// The description without its paths.
pub(super) fn about() -> OpenApi {
    #[derive(utoipa::OpenApi)]
    #[openapi(
        info(
            title = "Chatify",
            description = "Send and read messages. Live messages come over the SignalR hub at `/hubs/chat`, or as Server-Sent Events.",
            license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
        ),
        components(
            schemas(ProblemDto, FieldErrorDto),
            responses(
                BadRequest, Unauthenticated, Forbidden, NotFound, Conflict, TooLarge, NotJson, TooOften, Unavailable, TooLong
            ),
        ),
        tags(
            (name = "messages", description = "Send, read what was said, and follow what is said."),
            (name = "presence", description = "Who is online."),
            (name = "operations", description = "For whoever runs the server; without a token."),
        ),
    )]
    struct About;
    let mut description = About::openapi();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    description.components.get_or_insert_default().add_security_scheme("bearer", SecurityScheme::Http(bearer));
    description
}
