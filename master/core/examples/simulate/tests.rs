use crate::plan::Plan;
