//! REST, pages and what every HTTP answer has in common.
//!
//! Read [`paths`] for what there is, `shell` for what surrounds every request, then [`messages`]. To add a path: a constant in [`paths`], a handler
//! that extracts, calls the application and maps, and its line in `api`.

pub mod access;
pub mod admission;
mod cors;
pub mod dto;
pub mod events;
pub mod extract;
mod health;
pub mod messages;
pub mod openapi;
pub mod pages;
pub mod paths;
mod presence;
pub mod problem;
mod shell;
pub mod state;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use chatify_building_blocks::error::ErrorKind;
use http::{HeaderMap, Method, StatusCode};
use pages::Document;
use problem::{Problem, ProblemKind};
use state::AppState;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The whole HTTP surface: REST, pages, and the `hub`'s routes, all within the same shell.
pub fn router(state: AppState, hub: Router) -> Router {
    let (api, description) = api().split_for_parts();
    let description = description.to_json().expect("the description holds texts, numbers and lists only");
    let description = Document::json(description.into_bytes());
    let docs = Document::page(pages::DOCS);
    let playground = state.config.playground().then(|| Document::page(pages::PLAYGROUND));
    let pages = Router::new()
        .route(paths::OPENAPI, get(move |headers: HeaderMap| async move { description.answer(&headers) }))
        .route(paths::DOCS, get(move |headers: HeaderMap| async move { docs.answer(&headers) }))
        .route(paths::PLAYGROUND, get(move |headers: HeaderMap| async move { shown(playground.as_ref(), &headers) }));
    let body_limit = DefaultBodyLimit::max(state.config.server.max_body_bytes);
    api.merge(pages)
        .with_state(state.clone())
        .merge(hub)
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(body_limit)
        .layer(middleware::from_fn_with_state(state, shell::shell))
}

/// The described paths.
fn api() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::about())
        .routes(routes!(messages::send, messages::history))
        .routes(routes!(messages::message))
        .routes(routes!(events::events))
        .routes(routes!(presence::presence))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
}

fn shown(page: Option<&Document>, headers: &HeaderMap) -> Response {
    page.map_or_else(|| pages::switched_off().into_response(), |page| page.answer(headers))
}

async fn no_such_path() -> Problem {
    Problem::new(ErrorKind::NotFound, "there is nothing at this path")
}

/// `OPTIONS` is answered with what there is (`Allow` is added by the router); other methods are refused.
async fn no_such_method(method: Method) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    Problem::of(ProblemKind::MethodNotAllowed, format!("this path does not have the method {method}")).into_response()
}

#[cfg(test)]
mod tests;
