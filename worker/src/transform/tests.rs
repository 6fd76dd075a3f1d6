//! What a reader of the lake would miss.
