"""Who made the first NaN: gradscope, detect_anomaly and an isfinite hook on the same trainings."""
