"""Statistics, tables and figures: functions of committed runs.csv files alone."""
