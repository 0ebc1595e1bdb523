"""Stages 2 and 3: the text encoder meets the pictures, then UNet and text encoder learn to draw together.

v-prediction (Salimans & Ho 2022) on a cosine schedule with zero terminal SNR (Lin et al. 2024), min-SNR weights
(Hang et al. 2023) shifted by one so that the last step counts, timesteps stratified over the batch.
"""

import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from finetune.pretrain import progress
from finetune.pretrain.autoencoder import to_tensor
from finetune.pretrain.parallel import average_gradients
from finetune.pretrain.pictures import PictureSet, sample_caption
from finetune.pretrain.tokenizer import LENGTH

TEXT_STEPS, TEXT_BATCH, COMPONENTS = 1200, 128, 256
BATCH, RATE, TEXT_RATE, EMA, NO_CAPTION = 48, 1.5e-3, 3e-4, 0.998, 0.1


def build_unet() -> UNet2DConditionModel:
    """The UNet: 16 × 16 × 4 latents, attention at 8 × 8 and 4 × 4 (6.9 M parameters)."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 96, 160),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=16,
        cross_attention_dim=128,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text encoder: three layers of width 128."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_scheduler() -> DDIMScheduler:
    """Cosine betas, zero terminal SNR, v-prediction, trailing steps."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=True,
    )


def tokens(tokenizer: CLIPTokenizer, captions: list[str], device: torch.device) -> torch.Tensor:
    """int64 [n, 20]."""
    coded = tokenizer(captions, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    return torch.as_tensor(coded["input_ids"]).to(device)


def train_text(pictures: PictureSet, tokenizer: CLIPTokenizer, folder: Path, device: torch.device, seed: int) -> CLIPTextModel:
    """Pull captions towards 256 principal components of their pictures (squared error + InfoNCE); cached in `folder/text.pt`."""
    torch.manual_seed(seed)
    text = build_text_encoder(tokenizer).to(device)
    checkpoint = folder / "text.pt"
    if state := progress.resume(checkpoint, device):
        text.load_state_dict(state["model"])
        return text
    small = F.avg_pool2d(to_tensor(pictures.rgb), 2).flatten(1)
    small = small - small.mean(0)
    goal = (small @ torch.pca_lowrank(small, COMPONENTS, center=False)[2]).to(device)
    goal = goal / goal.std()
    head = torch.nn.Linear(128, COMPONENTS).to(device)
    optimiser = torch.optim.AdamW([*text.parameters(), *head.parameters()], 1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.5e-3, total_steps=TEXT_STEPS, pct_start=0.1)
    rng, started = random.Random(seed), time.monotonic()
    for step in range(TEXT_STEPS):
        index, captions = zip(*(sample_caption(pictures, rng) for _ in range(TEXT_BATCH)), strict=True)
        chosen = torch.tensor(index, device=device)
        said = head(text(tokens(tokenizer, list(captions), device)).last_hidden_state.mean(1))
        logits = 20 * F.normalize(said, dim=-1) @ F.normalize(goal[chosen], dim=-1).T
        same = (chosen[:, None] == chosen[None, :]) & ~torch.eye(len(chosen), dtype=torch.bool, device=device)
        contrast = F.cross_entropy(logits.masked_fill(same, -1e4), torch.arange(len(chosen), device=device))
        value = F.mse_loss(said, goal[chosen]) + 0.2 * contrast
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        if (step + 1) % 200 == 0:
            hit = (logits.argmax(1) == torch.arange(len(chosen), device=device)).float().mean()
            progress.say("text", step + 1, TEXT_STEPS, started, loss=value.item(), recall_at_1=hit.item())
    progress.save(checkpoint, {"model": text.state_dict()})
    return text


def timesteps(n: int, rng: torch.Generator, device: torch.device) -> torch.Tensor:
    """One uniform timestep from each of n equal strata of 0..999."""
    return ((torch.arange(n) + torch.rand(n, generator=rng)) * 1000 / n).long().clamp(max=999).to(device)


def v_loss(
    unet: UNet2DConditionModel, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, text: torch.Tensor, alphas: torch.Tensor
) -> torch.Tensor:
    """Weighted squared error of v = √ā ε − √(1−ā) x0, weight min(SNR+1, 5)/(SNR+1)."""
    a = alphas[t].view(-1, 1, 1, 1)
    out = unet(a.sqrt() * x0 + (1 - a).sqrt() * noise, t, encoder_hidden_states=text).sample
    target = a.sqrt() * noise - (1 - a).sqrt() * x0
    snr_plus_1 = 1 / (1 - alphas[t]).clamp(min=1e-6)
    weight = snr_plus_1.clamp(max=5) / snr_plus_1
    total: torch.Tensor = (weight * (out - target).pow(2).mean((1, 2, 3))).mean()
    return total


def train(
    rank: int,
    workers: int,
    pictures: PictureSet,
    latents: torch.Tensor,
    tokenizer: CLIPTokenizer,
    folder: Path,
    device: torch.device,
    seed: int,
    steps: int,
    batch: int = BATCH,
) -> None:
    """Train UNet and text encoder to `steps`, resuming from `folder/diffusion.pt`; linear decay in the second half."""
    torch.manual_seed(seed)
    unet = build_unet().to(device)
    text = train_text(pictures, tokenizer, folder, device, seed)
    parameters = [*unet.parameters(), *text.parameters()]
    groups = [{"params": list(unet.parameters()), "top": RATE}, {"params": list(text.parameters()), "top": TEXT_RATE}]
    optimiser = torch.optim.AdamW(groups, RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    checkpoint, first = folder / "diffusion.pt", 0
    average = [p.detach().clone() for p in parameters]
    if state := progress.resume(checkpoint, device):
        unet.load_state_dict(state["unet"])
        text.load_state_dict(state["text"])
        optimiser.load_state_dict(state["optimiser"])
        average, first = state["average"], state["step"]
    latents, alphas = latents.to(device), build_scheduler().alphas_cumprod.to(device)
    share, started, running = batch // workers, time.monotonic(), 0.0
    for step in range(first, steps):
        draw = seed * 104_729 + step * workers + rank
        rng, noise_rng = random.Random(draw), torch.Generator().manual_seed(draw)
        ramp = min(1.0, (step + 1) / 200) * min(1.0, max(0.02, 2 * (1 - step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = group["top"] * ramp
        index, captions = zip(*(sample_caption(pictures, rng) for _ in range(share)), strict=True)
        asked = [c if rng.random() >= NO_CAPTION else "" for c in captions]
        x0 = latents[torch.tensor(index)]
        noise = torch.randn(x0.shape, generator=noise_rng).to(device)
        hidden = text(tokens(tokenizer, asked, device)).last_hidden_state
        value = v_loss(unet, x0, noise, timesteps(share, noise_rng, device), hidden, alphas)
        optimiser.zero_grad()
        value.backward()
        average_gradients(parameters, workers)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - min(EMA, (step + 1) / (step + 10)))
        running = 0.99 * running + 0.01 * value.item() if running else value.item()
        if rank == 0 and ((step + 1) % 100 == 0 or step + 1 == steps):
            progress.say(
                "diffusion",
                step + 1,
                steps,
                started,
                loss=running,
                images_per_second=(step + 1 - first) * batch / (time.monotonic() - started),
            )
        if rank == 0 and ((step + 1) % 250 == 0 or step + 1 == steps):
            state = {
                "unet": unet.state_dict(),
                "text": text.state_dict(),
                "optimiser": optimiser.state_dict(),
                "average": average,
                "step": step + 1,
            }
            progress.save(checkpoint, state)


def averaged(tokenizer: CLIPTokenizer, folder: Path) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """UNet and text encoder with the running average of the weights in `folder/diffusion.pt`."""
    unet, text = build_unet(), build_text_encoder(tokenizer)
    state = progress.resume(folder / "diffusion.pt", torch.device("cpu"))
    if state is None:
        raise FileNotFoundError(f"{folder / 'diffusion.pt'} is not there; train the diffusion stage first")
    with torch.no_grad():
        for parameter, value in zip([*unet.parameters(), *text.parameters()], state["average"], strict=True):
            parameter.copy_(value)
    return unet.eval(), text.eval()
