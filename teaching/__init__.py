"""What teachers need: assignments made, graded and handed back with nbgrader, and a class table from the lessons' own exercises."""
