# NDT1 without any label: rates of units that it never saw, in bits per spike.
spiketok simulate --subjects 1 --sessions-per-subject 1 --units 40 --duration-s 180
spiketok train --model ndt1 --task population --set task.population.held_out=0.25 --set optim.steps=300 --tokenize
