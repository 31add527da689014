//! What went wrong with a request, in the shape of OpenAI's errors: `{"error": {message, type, param, code}}`.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::error::{Error, Kind, Place};

/// The outcome of a handler.
pub type Answered<T> = std::result::Result<T, Problem>;

/// A refusal or a failure.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Of the reply.
    pub status: StatusCode,
    /// One sentence and, after a semicolon, what to do.
    pub message: String,
    /// The field of the request that is wrong.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
}

impl Problem {
    /// A problem with this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Problem {
        Problem { status, message: message.into(), param: None, code: None }
    }

    /// The request is wrong in this field.
    pub fn field(name: &str, message: impl Into<String>) -> Problem {
        Problem { param: Some(name.into()), ..Problem::new(StatusCode::BAD_REQUEST, message) }
    }

    /// Adds the word for programs.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Problem {
        self.code = Some(code);
        self
    }

    /// The kind of error, by OpenAI's names.
    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            503 => "unavailable_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// As JSON.
    //= F-SERVE-244
    pub fn json(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind(), "param": self.param, "code": self.code}})
    }
}

impl From<Error> for Problem {
    fn from(e: Error) -> Problem {
        let status = match e.kind {
            Kind::Usage | Kind::Malformed | Kind::Unsupported | Kind::TooLarge => StatusCode::BAD_REQUEST,
            Kind::Busy => StatusCode::TOO_MANY_REQUESTS,
            Kind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Kind::Interrupted => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let code = match e.kind {
            Kind::Busy => Some("overloaded"),
            Kind::TimedOut => Some("timeout"),
            Kind::Interrupted => Some("draining"),
            _ => None,
        };
        let param = match &e.at {
            Some(Place::Key(name) | Place::Flag(name)) => Some(name.trim_start_matches('-').replace('-', "_")),
            _ => None,
        };
        Problem { param, code, ..Problem::new(status, e.to_string()) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let mut reply = (self.status, json_of(&self.json())).into_response();
        let headers = reply.headers_mut();
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        reply
    }
}

/// A reply that is this JSON.
pub fn json_of(value: &Value) -> Response<Body> {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}
