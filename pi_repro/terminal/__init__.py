"""What people see on a terminal and in a log; computes nothing."""
