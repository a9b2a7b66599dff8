//! Errors on their way to PostgreSQL and from it.

use crate::backend::context;
use crate::error::{Error, ErrorLocation, Report, SqlState};
use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
use pgrx::spi::{SpiError, SpiErrorCodes};
use pgrx::PgSqlErrorCode;

impl From<Error> for ErrorReport {
    #[track_caller]
    fn from(error: Error) -> ErrorReport {
        let Report { sqlstate, message, detail, hint, location } = error.report();
        context::add(&message, sqlstate, location);
        let mut report = ErrorReport::new(sqlstate.code(), message, "mimeo");
        if let Some(detail) = detail {
            report = report.set_detail(detail);
        }
        if let Some(hint) = hint {
            report = report.set_hint(hint);
        }
        report
    }
}

impl From<SpiError> for Error {
    fn from(error: SpiError) -> Error {
        // Only a statement that a user wrote can cause the first two.
        let (sqlstate, message) = match error {
            SpiError::SpiError(SpiErrorCodes::Transaction) => {
                (PgSqlErrorCode::ERRCODE_INVALID_TRANSACTION_TERMINATION, "a transaction cannot be begun or ended here")
            }
            SpiError::SpiError(SpiErrorCodes::Copy) => {
                (PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, "COPY to or from the client is not possible here")
            }
            other => return Error::Internal(other.to_string()),
        };
        Error::Postgres(Report { sqlstate: sqlstate.into(), message: message.into(), ..Report::default() })
    }
}

impl From<CaughtError> for Error {
    fn from(caught: CaughtError) -> Error {
        let (CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. }) = &caught;
        let cancelled = report.sql_error_code() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED;
        let (sqlstate, location) = context::take(report.message())
            .unwrap_or_else(|| (SqlState::from(report.sql_error_code()), ErrorLocation::default()));
        let report = Report {
            sqlstate,
            message: report.message().to_string(),
            detail: report.detail().map(str::to_string),
            hint: report.hint().map(str::to_string),
            location,
        };
        if cancelled {
            Error::Cancelled(report)
        } else {
            Error::Postgres(report)
        }
    }
}
