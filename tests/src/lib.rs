//! maclane's laboratory.
