//! Errors as RFC 9457 has them: `application/problem+json`. A page tells the same in words, see `ui`.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use crate::handle::Refused;
use crate::pipelines::Refusal;
use crate::store::Leader;

/// Why a request is not answered as wished.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Problem {
    pub(super) title: &'static str,
    pub(super) status: u16,
    /// What was found, what was expected, and what to do.
    pub(super) detail: String,
    /// The master stands by, and who leads.
    #[serde(skip)]
    pub(super) standby: Option<Box<Option<Leader>>>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        Self { title, status: status.as_u16(), detail: detail.into(), standby: None }
    }

    pub(super) fn code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Rejected(_) => Refusal::from(refused).into(),
            Refused::Unavailable(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "the cluster can't be seen", refused.to_string())
            }
            Refused::Standby { ref leader } => Self {
                standby: Some(Box::new(leader.clone())),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "this master stands by", refused.to_string())
            },
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, title) = match refusal {
            Refusal::Usage(_) => (StatusCode::BAD_REQUEST, "it can't be meant so"),
            Refusal::Unknown(_) => (StatusCode::NOT_FOUND, "not found"),
            Refusal::Now(_) => (StatusCode::CONFLICT, "not as things stand"),
            Refusal::Unavailable(_) | Refusal::Standby { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "not now: asking again may help")
            }
        };
        Self::new(status, title, refusal.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.code(), [(header::CONTENT_TYPE, "application/problem+json")], Json(self)).into_response()
    }
}
