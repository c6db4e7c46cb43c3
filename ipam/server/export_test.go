package server

import "time"

func init() { idleTime, firstPause = 5*time.Millisecond, time.Millisecond }
