//! Integration tests.

mod dialogs;
